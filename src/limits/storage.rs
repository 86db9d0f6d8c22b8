//! The rest of `user_storage_quota`.

/// The number of bytes that a project may still store; `None` without a quota. It is negative if the quota was lowered below what
/// the project stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StorageLeft(Option<i128>);

impl StorageLeft {
    /// There is no quota.
    pub(crate) fn unbounded() -> Self {
        Self(None)
    }

    pub(super) fn of(quota: u64, used: u128) -> Self {
        Self(Some(i128::from(quota) - i128::try_from(used).unwrap_or(i128::MAX)))
    }

    /// Checks that `size` more bytes fit. If the size is not known yet, checks that anything is left.
    ///
    /// # Errors
    /// Glance's message.
    pub(crate) fn admits(self, size: Option<u64>) -> Result<(), String> {
        let Some(left) = self.0 else { return Ok(()) };
        if size.map_or(left > 0, |size| i128::from(size) <= left) {
            return Ok(());
        }
        let size = size.map_or_else(|| "None".to_owned(), |size| size.to_string());
        Err(format!("The size of the data {size} will exceed the limit. {left} bytes remaining."))
    }

    /// The number of bytes after which data of unknown size exceeds the quota.
    pub(crate) fn bound(self) -> Option<u64> {
        self.0.map(|left| u64::try_from(left).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::StorageLeft;

    #[test]
    fn data_that_exceeds_the_rest_of_the_quota_is_refused() {
        let left = StorageLeft::of(100, 60);
        assert_eq!((left.admits(Some(40)), left.admits(None), left.bound()), (Ok(()), Ok(()), Some(40)));
        let refused = |size: &str, left: i32| {
            Err(format!("The size of the data {size} will exceed the limit. {left} bytes remaining."))
        };
        assert_eq!(left.admits(Some(41)), refused("41", 40));
        let full = StorageLeft::of(100, 100);
        assert_eq!((full.admits(Some(0)), full.admits(None), full.bound()), (Ok(()), refused("None", 0), Some(0)));
        let over = StorageLeft::of(100, 130);
        assert_eq!((over.admits(Some(0)), over.bound()), (refused("0", -30), Some(0)));
        let unbounded = StorageLeft::unbounded();
        assert_eq!((unbounded.admits(Some(u64::MAX)), unbounded.bound()), (Ok(()), None));
    }
}
