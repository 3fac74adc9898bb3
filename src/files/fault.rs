//! Points at which a disk may fail, for tests of what is left then. Outside of tests there are none.

/// One step in the file system. In a test it fails if it is the one that should.
///
/// # Errors
/// In tests alone: the disk is full.
#[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "it fails in tests alone"))]
pub(crate) fn point() -> std::io::Result<()> {
    #[cfg(test)]
    if test::is_due() {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod test {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Lets the step of this number, from 1, of this thread fail, and none after it.
    pub(crate) fn at(step: usize) {
        LEFT.set(Some(step));
    }

    /// Whether the step has not come yet; from now on none fails.
    pub(crate) fn is_left() -> bool {
        LEFT.take().is_some()
    }

    pub(super) fn is_due() -> bool {
        match LEFT.get() {
            Some(1) => LEFT.take().is_some(),
            Some(left) => {
                LEFT.set(Some(left - 1));
                false
            }
            None => false,
        }
    }
}
