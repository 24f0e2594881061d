//! One file, one driver: protocols, formats, filters, and the registry that lists them.
