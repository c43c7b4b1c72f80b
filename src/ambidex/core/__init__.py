"""The pure centre of the package: mechanism, ports, values, keys and queries; no I/O and no driver."""
