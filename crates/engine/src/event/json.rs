//! How fields of events are written where their types say too little.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::ids::WorkerId;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
pub(super) fn worker_number<S: Serializer>(id: &WorkerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(id.number)
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
pub(super) fn worker_number_if_any<S: Serializer>(
    id: &Option<WorkerId>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    id.map(|id| id.number).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
pub(super) fn milliseconds_if_any<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

pub(super) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Writes what people type for it.
pub(super) fn as_text<T: std::fmt::Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
