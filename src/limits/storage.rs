//! What `user_storage_quota` leaves.

/// Bytes that a project may still store, where there is a bound. They are fewer than none where it was lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StorageLeft(Option<i128>);

impl StorageLeft {
    pub(super) fn unbounded() -> Self {
        Self(None)
    }

    pub(super) fn of(quota: u64, used: u128) -> Self {
        Self(Some(i128::from(quota) - i128::try_from(used).unwrap_or(i128::MAX)))
    }

    /// Checks that so many bytes fit, or, where their number is not known yet, that there is room at all. The error is what
    /// Glance says.
    pub(crate) fn admits(self, size: Option<u64>) -> Result<(), String> {
        let Some(left) = self.0 else { return Ok(()) };
        if size.map_or(left > 0, |size| i128::from(size) <= left) {
            return Ok(());
        }
        let size = size.map_or_else(|| "None".to_owned(), |size| size.to_string());
        Err(format!("The size of the data {size} will exceed the limit. {left} bytes remaining."))
    }

    /// Bytes after which data of unknown size is too much.
    pub(crate) fn bound(self) -> Option<u64> {
        self.0.map(|left| u64::try_from(left).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::StorageLeft;

    #[test]
    fn what_is_left_admits_what_fits() {
        let left = StorageLeft::of(100, 60);
        assert_eq!((left.admits(Some(40)), left.admits(None), left.bound()), (Ok(()), Ok(()), Some(40)));
        let says = |size: &str, left: i32| {
            Err(format!("The size of the data {size} will exceed the limit. {left} bytes remaining."))
        };
        assert_eq!(left.admits(Some(41)), says("41", 40));
        let full = StorageLeft::of(100, 100);
        assert_eq!((full.admits(Some(0)), full.admits(None), full.bound()), (Ok(()), says("None", 0), Some(0)));
        let over = StorageLeft::of(100, 130);
        assert_eq!((over.admits(Some(0)), over.bound()), (says("0", -30), Some(0)));
        let unbounded = StorageLeft::unbounded();
        assert_eq!((unbounded.admits(Some(u64::MAX)), unbounded.bound()), (Ok(()), None));
    }
}
