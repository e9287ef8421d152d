"""What instructions are: encoding rows, definitions over words, assembly syntax."""
