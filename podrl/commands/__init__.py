"""The commands that users type, one module each: it reads its flags and calls the rooms above."""
