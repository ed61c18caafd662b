"""What sweeps of the configs beside this folder vary, one file each."""
