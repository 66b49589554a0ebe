"""Engine bundles: build, check, trust and open them."""
