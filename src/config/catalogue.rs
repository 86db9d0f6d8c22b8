//! Which options there are: those that Glimpse acts on, and those that Glance knows.

use super::{
    known::Known,
    options::{
        Cors, Database, DefaultGroup, FileStore, GlanceStore, Glimpse, Healthcheck, HttpStore, ImageFormat,
        ImportFilteringOpts, KeystoneAuthtoken, OsloLimit, OsloMiddleware, OsloPolicy, PasteDeploy, S3Store,
    },
};

/// Every option that Glimpse acts on.
pub(super) fn known() -> impl Iterator<Item = &'static Known> {
    let groups = [
        DefaultGroup::OPTIONS,
        Database::OPTIONS,
        KeystoneAuthtoken::OPTIONS,
        PasteDeploy::OPTIONS,
        ImageFormat::OPTIONS,
        OsloLimit::OPTIONS,
        GlanceStore::OPTIONS,
        FileStore::OPTIONS,
        HttpStore::OPTIONS,
        ImportFilteringOpts::OPTIONS,
        S3Store::OPTIONS,
        OsloMiddleware::OPTIONS,
        OsloPolicy::OPTIONS,
        Cors::OPTIONS,
        Healthcheck::OPTIONS,
        Glimpse::OPTIONS,
    ];
    groups.into_iter().flatten()
}

/// Every option that Glance knows: group and name.
fn of_glance() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("glance-options.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' '))
}

/// Whether Glance knows the option. A group that is named like no group of Glance's may be one of its stores, whose
/// options have their kind's names.
pub(super) fn is_glances(group: &str, name: &str) -> bool {
    let is_group = of_glance().any(|(other, _)| other == group);
    of_glance().any(|(other, option)| option == name && (other == group || (!is_group && is_kind_of_store(other))))
}

/// The option that a variable of the environment is about, `OS_<GROUP>__<NAME>`, where there is such a group.
pub(super) fn of_variable(variable: &str) -> Option<(&'static str, String)> {
    let (group, name) = variable.strip_prefix("OS_")?.split_once("__")?;
    let mut groups = known().map(|option| option.group).chain(of_glance().map(|(group, _)| group));
    Some((groups.find(|known| known.to_uppercase() == group)?, name.to_lowercase()))
}

fn is_kind_of_store(group: &str) -> bool {
    group == "file" || (group.starts_with("glance.store.") && group.ends_with(".store"))
}

/// The option that was meant by one that there is not, if any is near: in its group, in another one of the same name, or in
/// another group.
pub(super) fn nearest(group: &str, name: &str) -> Option<(&'static str, &'static str)> {
    let all = || known().map(|option| (option.group, option.name)).chain(of_glance());
    let same_name = all().filter(|(_, option)| *option == name);
    let same_name = same_name.min_by_key(|(other, _)| strsim::damerau_levenshtein(other, group));
    let near = |(other, option): &(&str, &str)| {
        let apart = strsim::damerau_levenshtein(option, name);
        let far = apart > Ord::max(2, name.len() / 4) || apart >= name.len();
        (!far).then_some((*other != group, apart))
    };
    same_name.or_else(|| all().filter(|option| near(option).is_some()).min_by_key(near))
}

#[cfg(test)]
mod tests {
    use super::{is_glances, known, nearest, of_glance, of_variable};

    #[test]
    fn the_list_of_glances_options_is_sorted_and_complete() {
        let all: Vec<_> = of_glance().collect();
        assert!(all.is_sorted_by(|a, b| a < b), "not sorted, or something is there twice");
        assert!(all.len() > 500, "only {} options", all.len());
        let ours = known().filter(|option| !["glimpse"].contains(&option.group));
        let missing: Vec<_> = ours.map(|o| (o.group, o.name)).filter(|option| !all.contains(option)).collect();
        assert_eq!(missing, []);
    }

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant() {
        assert_eq!(nearest("DEFAULT", "bind_prot"), Some(("DEFAULT", "bind_port")));
        assert_eq!(nearest("database", "bind_port"), Some(("DEFAULT", "bind_port")));
        assert_eq!(nearest("databse", "connection"), Some(("database", "connection")));
        assert_eq!(nearest("DEFAULT", "log-file"), Some(("DEFAULT", "log_file")));
        assert_eq!(nearest("cors", "alowed_origins"), Some(("cors", "allowed_origin")));
        assert_eq!(nearest("DEFAULT", "xyzzy"), None);
        assert_eq!(nearest("DEFAULT", "x"), None);
    }

    #[test]
    fn a_variable_is_about_an_option_where_its_group_is_known() {
        assert_eq!(of_variable("OS_DATABASE__CONECTION"), Some(("database", "conection".to_owned())));
        assert_eq!(of_variable("OS_DEFAULT__BIND_PORT"), Some(("DEFAULT", "bind_port".to_owned())));
        for other in ["OS_USERNAME", "OS_OTHER__X", "DATABASE__X", "OS_default__X"] {
            assert_eq!(of_variable(other), None);
        }
    }

    #[test]
    fn a_stores_group_has_any_name() {
        assert!(
            is_glances("fast", "rbd_store_pool") && is_glances("os_glance_staging_store", "filesystem_store_datadir")
        );
        assert!(!is_glances("database", "rbd_store_pool"));
    }
}
