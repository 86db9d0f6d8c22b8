//! Tokens that were revoked one by one, before their end.
//!
//! They are kept in memory, so a restart forgets them. Their number is bounded: beyond [`MAX_TOKENS`] of one user, all tokens that
//! the user has by then are revoked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::token::Claims;

/// The revoked tokens of one user that are kept one by one.
const MAX_TOKENS: usize = 1000;

/// The revoked tokens of all users.
#[derive(Default)]
pub(super) struct Revocations(Mutex<HashMap<String, OfUser>>);

#[derive(Default)]
struct OfUser {
    /// The time until which each token would be valid, by audit id.
    tokens: HashMap<String, i64>,
    /// Every token issued up to `.0` is revoked; no such token is valid after `.1`.
    all: Option<(i64, i64)>,
}

impl Revocations {
    /// Revokes a token. `now` is in seconds, and `lifetime` is the longest one of a token.
    pub(super) fn revoke(&self, claims: &Claims, now: i64, lifetime: i64) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, user| {
            user.tokens.retain(|_, expires| *expires > now);
            user.all = user.all.filter(|(_, expires)| *expires > now);
            !user.tokens.is_empty() || user.all.is_some()
        });
        let user = users.entry(claims.user.clone()).or_default();
        user.tokens.insert(claims.audit_id.clone(), claims.expires);
        if user.tokens.len() > MAX_TOKENS {
            let expires = user.tokens.values().copied().chain([now + lifetime]).max().unwrap_or(i64::MAX);
            *user = OfUser { tokens: HashMap::new(), all: Some((now, expires)) };
        }
    }

    /// Whether a token is revoked.
    pub(super) fn contains(&self, claims: &Claims) -> bool {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(&claims.user).is_some_and(|user| {
            user.tokens.contains_key(&claims.audit_id) || user.all.is_some_and(|(until, _)| claims.issued <= until)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, MAX_TOKENS, Revocations};

    fn claims(user: &str, audit_id: &str, issued: i64) -> Claims {
        Claims {
            user: user.to_owned(),
            project: None,
            methods: Vec::new(),
            issued,
            expires: issued + 10,
            audit_id: audit_id.to_owned(),
            parent_audit_id: None,
        }
    }

    #[test]
    fn revocations_are_kept_until_the_tokens_expire() {
        let revocations = Revocations::default();
        let (first, second) = (claims("a", "1", 100), claims("a", "2", 105));
        revocations.revoke(&first, 101, 10);
        assert!(revocations.contains(&first) && !revocations.contains(&second));
        assert!(!revocations.contains(&claims("b", "1", 100)));
        revocations.revoke(&second, 110, 10);
        assert!(!revocations.contains(&first) && revocations.contains(&second));
        revocations.revoke(&claims("b", "3", 200), 201, 10);
        assert_eq!(revocations.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn too_many_revocations_of_one_user_revoke_all_of_the_users_tokens() {
        let revocations = Revocations::default();
        for n in 0..=MAX_TOKENS {
            revocations.revoke(&claims("a", &n.to_string(), 100), 105, 10);
        }
        assert!(revocations.contains(&claims("a", "other", 105)) && revocations.contains(&claims("a", "7", 100)));
        assert!(!revocations.contains(&claims("a", "new", 106)) && !revocations.contains(&claims("b", "7", 100)));
        assert!(revocations.0.lock().unwrap()["a"].tokens.is_empty());
        revocations.revoke(&claims("b", "1", 120), 120, 10);
        assert!(!revocations.contains(&claims("a", "other", 105)));
    }
}
