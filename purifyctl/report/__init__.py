"""Results for people to read: tables, plots, HTML pages."""
