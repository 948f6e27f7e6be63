"""An inventory that another service keeps."""
