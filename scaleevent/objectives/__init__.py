"""What an encoder is pretrained for."""
