//! Lists of options: those that Glimpse acts on, and those that Glance has.

use super::{GROUPS, option::OptionSpec, stores};

/// Every option that Glimpse acts on.
pub(super) fn options() -> impl Iterator<Item = &'static OptionSpec> {
    GROUPS.iter().chain(stores::GROUPS).copied().flatten()
}

/// The group and name of every option that Glance has.
fn glance_options() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("glance-options.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' '))
}

/// Whether Glance has the option. A group that is not in Glance's list may belong to a store, which has the options of its
/// driver.
pub(super) fn is_glance_option(group: &str, name: &str) -> bool {
    let is_group = glance_options().any(|(other, _)| other == group);
    glance_options().any(|(other, option)| option == name && (other == group || (!is_group && is_store_driver(other))))
}

/// The group and name of the option that an environment variable `OS_<GROUP>__<NAME>` sets. `None` if there is no such group.
pub(super) fn parse_variable(variable: &str) -> Option<(&'static str, String)> {
    let (group, name) = variable.strip_prefix("OS_")?.split_once("__")?;
    let mut groups = options().map(|option| option.group).chain(glance_options().map(|(group, _)| group));
    Some((groups.find(|name| name.to_uppercase() == group)?, name.to_lowercase()))
}

fn is_store_driver(group: &str) -> bool {
    ["cinder", "file"].contains(&group) || (group.starts_with("glance.store.") && group.ends_with(".store"))
}

/// Whether an option of Glance has no effect by design: it tunes something that Glimpse does not have, and nothing is missing
/// without it. `has_notifications` is whether the operator has Glance send notifications.
pub(super) fn is_needless(group: &str, name: &str, has_notifications: bool) -> bool {
    match group {
        // Validated tokens are cached in the process.
        "keystone_authtoken" => name.starts_with("memcache"),
        // Threads of one process need no lock files, and no Python.
        "oslo_concurrency" | "oslo_reports" | "wsgi" => true,
        "os_brick" => name == "lock_path",
        // There is one executor. The data of a task goes into the store without a copy in a working directory.
        "task" => ["task_executor", "work_dir"].contains(&name),
        "taskflow_executor" => name == "engine_mode",
        "profiler" | "profiler_jaeger" | "profiler_otlp" => name != "enabled",
        "DEFAULT" => {
            !has_notifications && ["control_exchange", "executor_thread_pool_size", "transport_url"].contains(&name)
                || name.starts_with("rpc_")
        }
        group => !has_notifications && group.starts_with("oslo_messaging_"),
    }
}

/// The option that was probably meant by one that does not exist, if the same group has a similar one. If there is no such group,
/// the group may be misspelt.
pub(super) fn nearest(group: &str, name: &str) -> Option<(&'static str, &'static str)> {
    let all = || options().map(|option| (option.group, option.name)).chain(glance_options());
    let is_near = |text: &str, other: &str| {
        let apart = strsim::damerau_levenshtein(text, other);
        apart <= Ord::max(2, text.len() / 4) && apart < text.len()
    };
    if all().any(|(other, _)| other == group) {
        let near = all().filter(|(other, option)| *other == group && is_near(name, option));
        return near.min_by_key(|(_, option)| strsim::damerau_levenshtein(option, name));
    }
    let misspelt = all().filter(|(other, option)| *option == name && is_near(group, other));
    misspelt.min_by_key(|(other, _)| strsim::damerau_levenshtein(other, group))
}

#[cfg(test)]
mod tests {
    use super::{glance_options, is_glance_option, nearest, options, parse_variable};

    #[test]
    fn the_list_of_glance_options_is_sorted_and_complete() {
        let all: Vec<_> = glance_options().collect();
        assert!(all.is_sorted_by(|a, b| a < b), "not sorted, or something is there twice");
        assert!(all.len() > 500, "only {} options", all.len());
        let ours = options().filter(|option| option.group != "glimpse");
        let missing: Vec<_> = ours.map(|o| (o.group, o.name)).filter(|option| !all.contains(option)).collect();
        assert_eq!(missing, []);
    }

    #[test]
    fn the_nearest_option_of_a_misspelt_one_is_found() {
        assert_eq!(nearest("DEFAULT", "bind_prot"), Some(("DEFAULT", "bind_port")));
        // Options of other groups are not suggested.
        assert_eq!(nearest("database", "bind_port"), None);
        assert_eq!(nearest("my_store", "bind_port"), None);
        assert_eq!(nearest("databse", "connection"), Some(("database", "connection")));
        assert_eq!(nearest("DEFAULT", "log-file"), Some(("DEFAULT", "log_file")));
        assert_eq!(nearest("cors", "alowed_origins"), Some(("cors", "allowed_origin")));
        assert_eq!(nearest("DEFAULT", "xyzzy"), None);
        assert_eq!(nearest("DEFAULT", "x"), None);
    }

    #[test]
    fn options_of_key_managers_and_of_the_cinder_store_are_known() {
        for (group, name) in [
            ("barbican", "barbican_endpoint"),
            ("key_manager", "backend"),
            ("vault", "vault_url"),
            ("barbican_service_user", "auth_url"),
            ("os_brick", "lock_path"),
            ("glance_store", "cinder_volume_type"),
            ("my_cinder", "cinder_volume_type"),
        ] {
            assert!(is_glance_option(group, name), "[{group}] {name}");
        }
    }

    #[test]
    fn a_variable_is_parsed_if_its_group_exists() {
        assert_eq!(parse_variable("OS_DATABASE__CONECTION"), Some(("database", "conection".to_owned())));
        assert_eq!(parse_variable("OS_DEFAULT__BIND_PORT"), Some(("DEFAULT", "bind_port".to_owned())));
        for other in ["OS_USERNAME", "OS_OTHER__X", "DATABASE__X", "OS_default__X"] {
            assert_eq!(parse_variable(other), None);
        }
    }

    #[test]
    fn the_group_of_a_store_can_have_any_name() {
        assert!(
            is_glance_option("fast", "rbd_store_pool")
                && is_glance_option("os_glance_staging_store", "filesystem_store_datadir")
        );
        assert!(!is_glance_option("database", "rbd_store_pool"));
    }
}
