//! The pure core of supervision (contract only).
