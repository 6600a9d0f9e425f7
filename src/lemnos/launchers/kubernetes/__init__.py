"""Units as objects of Kubernetes."""
