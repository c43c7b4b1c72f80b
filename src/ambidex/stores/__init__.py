"""What an application stores, each written once over ports, so that any backend serves it in both modes."""
