//! The typed verbs over graph, drivers, exports and objects; the event sink.
