//! Node names, typed edges, the permission table, and edits as all-or-nothing data.
