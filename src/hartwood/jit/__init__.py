"""From definitions to callable machine code: lifting, compiling, linking, invalidation."""
