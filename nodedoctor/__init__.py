"""The shared vocabulary and the face: types, configuration, bus, command line."""
