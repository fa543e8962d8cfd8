//! Every numbered behaviour of supervision, one by one, and a seeded simulation.
