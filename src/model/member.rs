//! A project that an image is shared with.

use chrono::NaiveDateTime;

use super::{check_storable, text_enum::text_enum};
use crate::error::{Error, Result};

/// The maximum number of characters of a member, which is the width of its column.
const MAX_MEMBER_LENGTH: usize = 255;

text_enum! {
    /// What a project makes of an image that is shared with it.
    pub(crate) enum MemberStatus("") {
        /// Nothing yet: the image is not listed.
        Pending = "pending",
        /// The image is listed.
        Accepted = "accepted",
        /// The image is not to be listed.
        Rejected = "rejected",
    }
}

/// A project that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Member {
    /// The image.
    pub(crate) image_id: String,
    /// The project.
    pub(crate) member: String,
    /// What it makes of it.
    pub(crate) status: MemberStatus,
    /// When it was added, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When its status was changed last, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
}

/// A project that an image can be shared with: not empty, short enough, of storable characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberId(String);

impl MemberId {
    /// Checks a project's id. Whether there is such a project is Keystone's business, as in Glance.
    ///
    /// # Errors
    /// `Invalid`, with a message that names the fault.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::Invalid("Member can't be empty".to_owned()));
        }
        if text.chars().count() > MAX_MEMBER_LENGTH {
            return Err(Error::Invalid(format!(
                "Member is too long, it has {MAX_MEMBER_LENGTH} characters at the most."
            )));
        }
        check_storable("Member", text)?;
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
