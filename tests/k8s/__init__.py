"""The manifests and the image for real: schemas, and the Pod under podman; `make test-k8s` runs these."""
