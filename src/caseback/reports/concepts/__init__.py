"""Documents of concepts in representations: probes, erasers, steering."""
