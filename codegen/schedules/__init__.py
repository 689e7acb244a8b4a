"""How kernels are laid on a machine: one file for each kind of target."""
