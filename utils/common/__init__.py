"""What every room uses: errors, whole files, HDF5, memory, several processes, the commands' names."""
