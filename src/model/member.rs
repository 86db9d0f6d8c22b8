//! Members: the projects that an image is shared with.

use chrono::NaiveDateTime;

use super::{check_storable, text_enum::text_enum};
use crate::error::{Error, Result};

/// The maximum length of a member's id in characters, which is the width of its column.
const MAX_MEMBER_LENGTH: usize = 255;

text_enum! {
    /// The response of a project to an image that is shared with it.
    pub(crate) enum MemberStatus("") {
        /// The project has not responded: its listings leave the image out.
        Pending = "pending",
        /// The project has accepted the image: its listings include it.
        Accepted = "accepted",
        /// The project has rejected the image: its listings leave it out.
        Rejected = "rejected",
    }
}

/// A project that an image is shared with.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Member {
    /// The image that is shared.
    pub(crate) image_id: String,
    /// The project's id.
    pub(crate) member: String,
    /// The project's response.
    pub(crate) status: MemberStatus,
    /// When it was added, in UTC.
    pub(crate) created_at: NaiveDateTime,
    /// When its status was last changed, in UTC.
    pub(crate) updated_at: Option<NaiveDateTime>,
}

/// The id of a project that an image can be shared with: not empty, short enough, and storable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberId(String);

impl MemberId {
    /// Validates a project's id. As in Glance, nothing checks that Keystone knows the project.
    ///
    /// # Errors
    /// `Invalid`, with a message that explains why the id is rejected.
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

    /// The project's id.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
