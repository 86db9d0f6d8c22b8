//! Glance 33's default rules, one row each.

/// `(name, rule)`.
pub(super) const RULES: &[(&str, &str)] = &[
    ("context_is_admin", "role:admin"),
    ("add_image", "rule:context_is_admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)"),
    ("delete_image", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    (
        "get_image",
        "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s \
         or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))",
    ),
    ("get_images", "rule:context_is_admin or (role:reader and project_id:%(project_id)s)"),
    ("modify_image", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    ("set_image_location", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    ("delete_image_location", "rule:context_is_admin"),
    ("deactivate", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    ("reactivate", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    ("add_member", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    ("delete_member", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
    ("get_member", "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)"),
    ("get_members", "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)"),
    ("modify_member", "rule:context_is_admin or (role:member and project_id:%(member_id)s)"),
    ("publicize_image", "rule:context_is_admin"),
    ("communitize_image", "rule:context_is_admin or (role:member and project_id:%(project_id)s)"),
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_rule_parses() {
        for (name, text) in super::RULES {
            assert!(super::super::parse::parse(text).is_ok(), "{name}");
        }
    }
}
