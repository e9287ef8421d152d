"""Tools for people: the command line, disassembly and their kin. Import the module you want."""
