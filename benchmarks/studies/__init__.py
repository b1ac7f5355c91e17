"""Single studies that docs/ quotes; `make bench` does not run them."""
