//! A policy of the program's own, as part of a spec.

use std::fmt;
use std::sync::Arc;

use crate::balance::Balance;

type Make = dyn Fn() -> Box<dyn Balance> + Send + Sync;

/// Makes a [`Balance`] for each listener; equal only to itself and its clones.
#[derive(Clone)]
pub struct Custom(Arc<Make>);

impl Custom {
    pub(super) fn new<B: Balance + 'static>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::new(make())))
    }

    pub(crate) fn make(&self) -> Box<dyn Balance> {
        (self.0)()
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Custom {}
