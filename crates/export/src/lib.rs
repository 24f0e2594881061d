//! Clients come in here: NBD.
