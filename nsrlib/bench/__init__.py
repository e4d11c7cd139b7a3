"""How fast operators and networks are on this device, and what their machine code says."""
