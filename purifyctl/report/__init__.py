"""Results for people to read: tables, plots, HTML pages."""

from purifyctl.machine import hush_libraries

hush_libraries()
