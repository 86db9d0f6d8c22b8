//! Tests of the policy: verdicts are compared with those of oslo.policy, and the server reads its policy files.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Client, Persona, Question, ServerBuilder, TestServer, Twins, eventually, program};

/// A configuration that creates no users at the first start.
const FAKE: &str = "[glimpse]\nauth = fake\n";

/// A folder with a configuration file and policy files.
struct Files(TempDir);

impl Files {
    fn new(config: &str, policy: Option<&str>) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("glance-api.conf", config);
        if let Some(policy) = policy {
            files.write("policy.yaml", policy);
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("--config-file").arg(self.path("glance-api.conf")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Evaluates the same questions with both programs, and compares the verdicts.
    fn compare(&self, questions: &[Value]) {
        let text: String = questions.iter().map(|question| format!("{question}\n")).collect();
        self.write("questions", &text);
        let (_, ours, errors) = self.run(&["policy", "check", "--questions", self.path("questions").to_str().unwrap()]);
        let theirs = oslo(
            &["judge", self.path("glance-api.conf").to_str().unwrap(), self.path("questions").to_str().unwrap()],
            "",
        );
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.lines().collect(), theirs.lines().collect());
        assert_eq!(ours.len(), questions.len(), "{errors}");
        assert_eq!(theirs.len(), questions.len());
        let both = ours.iter().zip(&theirs).zip(questions);
        let different: Vec<_> = both.filter(|((ours, theirs), _)| ours != theirs).take(10).collect();
        assert!(different.is_empty(), "ours, theirs, the question: {different:#?}");
        for verdict in ["allowed", "denied"] {
            let share = ours.iter().filter(|line| **line == verdict).count();
            assert!(share * 20 > ours.len(), "only {share} of {} are {verdict}: this tests too little", ours.len());
        }
    }
}

/// Runs the real oslo.policy.
fn oslo(arguments: &[&str], input: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
    let mut process =
        Command::new(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "tests/policy {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// All kinds of callers.
fn callers() -> Vec<Value> {
    let mut callers = vec![
        json!({"roles": ["admin", "member", "reader"], "project": "p1", "user": "u1"}),
        json!({"roles": ["member", "reader"], "project": "p1", "user": "u1", "user_domain": "d1", "project_domain": "d1"}),
        json!({"roles": ["member", "reader"], "project": "p2", "user": "u2", "user_domain": "d1", "project_domain": "d2"}),
        json!({"roles": ["reader"], "project": "p1", "user": "u3"}),
        json!({"roles": ["service"], "project": "services", "user": "nova", "service_roles": ["service", "admin"]}),
        json!({"roles": [], "project": "p1", "user": "u1"}),
        json!({"roles": ["member"]}),
    ];
    for (scope, domain) in [("system", None), ("domain", Some("d1")), ("none", None)] {
        callers.push(json!({"roles": ["admin", "member", "reader"], "user": "u1", "scope": scope, "domain": domain}));
    }
    callers
}

/// All kinds of targets. Targets with null attributes are in `without_values`.
fn targets() -> Vec<Value> {
    let image = |owner: &str, visibility: &str| json!({"owner": owner, "project_id": owner, "visibility": visibility});
    let mut targets =
        vec![json!({}), json!({"project_id": "p1", "owner": "p1"}), json!({"role": "Reader", "protected": true})];
    for visibility in ["private", "shared", "community", "public"] {
        targets.push(image("p1", visibility));
    }
    for member in ["p1", "p2"] {
        let mut image = image("p3", "private");
        image["member_id"] = json!(member);
        image["member"] = json!(member);
        image["min_disk"] = json!(20);
        targets.push(image);
    }
    targets
}

fn without_values() -> Value {
    json!({"owner": null, "project_id": null, "member_id": null, "member": null, "visibility": "shared", "size": null})
}

fn ask(rule: &str, caller: &Value, target: &Value) -> Value {
    let mut question = caller.clone();
    question["rule"] = json!(rule);
    question["target"] = target.clone();
    question
}

fn glances_rules() -> Vec<Value> {
    oslo(&["rules"], "").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_default_rules_are_glances() {
    let rules = glances_rules();
    assert!(rules.len() > 60, "only {} rules", rules.len());
    let lines = |files: &Files| files.run(&["policy", "list"]).1.lines().map(str::to_owned).collect::<Vec<_>>();
    let expected = rules.iter().map(|rule| format!("{}: {}  # default", rule["name"], rule["text"]));
    assert_eq!(lines(&Files::new("", None)), expected.collect::<Vec<_>>());
    let old = lines(&Files::new("[oslo_policy]\nenforce_new_defaults = false\n", None));
    assert_eq!(old.len(), rules.len());
    for (rule, line) in rules.iter().zip(old) {
        let before = rule["before"].as_str().filter(|before| *before != rule["text"]);
        assert_eq!(before.is_some(), line.contains("enforce_new_defaults = false"), "{line}");
        assert!(before.is_none_or(|before| line.contains(&format!(" or {before})"))), "{line}");
    }
}

#[test]
fn the_sample_has_every_rule_with_its_default() {
    let sample = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policy.yaml")).unwrap();
    let rules: Vec<_> =
        sample.lines().filter_map(|line| line.strip_prefix("#\"")).map(|line| format!("\"{line}")).collect();
    let (_, out, _) = Files::new("", None).run(&["policy", "list"]);
    assert_eq!(rules, out.lines().map(|line| line.trim_end_matches("  # default")).collect::<Vec<_>>());
    // Without the `#` characters the file is valid, and changes nothing.
    let files = Files::new("", Some(&(rules.join("\n") + "\n")));
    let (code, out, _) = files.run(&["config", "check"]);
    assert_eq!((code, out.matches("warning: ").count()), (Some(0), 1), "only modify_task is deprecated: {out}");
}

#[test]
fn glances_rules_have_the_same_verdicts_as_in_oslo_policy() {
    let rules = glances_rules();
    let mut questions = Vec::new();
    for rule in &rules {
        let rule = rule["name"].as_str().unwrap();
        for caller in callers() {
            questions.extend(targets().iter().map(|target| ask(rule, &caller, target)));
        }
    }
    let changed = "get_image: '!'\nadd_member: rule:mine\nmine: project_id:%(owner)s\nmanage_image_cache: role:reader\n\
                   default: role:member\nmodify_metadef_tag: rule:nowhere\n";
    for (config, policy) in [
        ("", None),
        ("[oslo_policy]\nenforce_new_defaults = false\n", None),
        ("[oslo_policy]\nenforce_new_defaults = false\n", Some(changed)),
        ("", Some(changed)),
        ("[oslo_policy]\npolicy_default_rule = mine\n", Some(changed)),
        ("[oslo_policy]\npolicy_default_rule = missing\n", Some(changed)),
    ] {
        Files::new(config, policy).compare(&questions);
    }
}

/// Checks of every kind, including unusual ones.
const CHECKS: &[&str] = &[
    "@",
    "!",
    "role:admin",
    "role:MEMBER",
    "role:%(role)s",
    "role:%(nothing)s",
    "role:%(visibility)s",
    "rule:other",
    "rule:undefined",
    "project_id:%(project_id)s",
    "project_id:%(owner)s",
    "project_id:%(member_id)s",
    "project_id:p1",
    "project_id:None",
    "project_id:",
    "user_id:u1",
    "user_id:%(nothing)s",
    "user_domain_id:d1",
    "project_domain_id:d1",
    "user_domain_id:None",
    "domain_id:None",
    "roles:member",
    "roles:%(role)s",
    "service_roles:service",
    "service_roles:member",
    "system_scope:all",
    "system_scope:None",
    "system:all",
    "is_admin_project:True",
    "is_admin:True",
    "tenant:p1",
    "user.id:u1",
    "token.project.id:p1",
    "target.owner:p1",
    "user_id:p%(owner)s%(owner)s",
    "project_id:p%%1",
    "'shared':%(visibility)s",
    "\"public\":%(visibility)s",
    "'p1/private':%(owner)s/%(visibility)s",
    "'100%':100%%",
    "True:%(protected)s",
    "true:%(protected)s",
    "False:False",
    "None:%(owner)s",
    "None:%(size)s",
    "None:None",
    "None:%(nothing)s",
    "20:%(min_disk)s",
    "+20:%(min_disk)s",
    "20.0:%(min_disk)s",
    "1.50:1.5",
    "-1:-1",
    "'':",
    "'it\\'s':it's",
];

/// A random number generator with a fixed seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn rule(&mut self, depth: usize) -> String {
        let check = |dice: &mut Self| CHECKS[dice.roll(CHECKS.len())].to_owned();
        if depth == 0 {
            return check(self);
        }
        let (and, or, not) = [("and", "or", "not"), ("AND", "Or", "NOT")][self.roll(2)];
        match self.roll(7) {
            0 => check(self),
            1 => format!("{not} {}", self.rule(depth - 1)),
            2 => format!("({})", self.rule(depth - 1)),
            3 => format!("( {} )", self.rule(depth - 1)),
            4 => format!("{} {and}  {}", self.rule(depth - 1), self.rule(depth - 1)),
            5 => format!("{}\t{or} {}", self.rule(depth - 1), self.rule(depth - 1)),
            _ => format!("{} {or} {} {and} {}", self.rule(depth - 1), self.rule(depth - 1), self.rule(depth - 1)),
        }
    }

    fn list(&mut self) -> Value {
        let inner =
            |dice: &mut Self| (0..dice.roll(4)).map(|_| json!(CHECKS[dice.roll(CHECKS.len())])).collect::<Value>();
        (0..self.roll(4))
            .map(|_| if self.roll(3) == 0 { json!(CHECKS[self.roll(CHECKS.len())]) } else { inner(self) })
            .collect()
    }
}

#[test]
fn generated_rules_have_the_same_verdicts_as_in_oslo_policy() {
    let mut dice = Dice(7);
    let mut rules: Vec<Value> = CHECKS.iter().map(|check| json!(check)).collect();
    rules.extend(CHECKS.iter().map(|check| json!(format!("not {check}"))));
    rules.extend((0..200).map(|_| json!(dice.rule(3))));
    rules.extend((0..60).map(|_| dice.list()));
    rules.extend([json!(""), json!([]), json!([[]]), json!(null), json!([["@"], []])]);
    let mut policy = String::from("# Of every kind.\n\"other\": \"role:reader\"\n\"default\": \"role:service\"\n");
    let mut questions = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        policy += &format!("r{number}: {rule}\n");
        for caller in callers() {
            questions.extend(targets().iter().map(|target| ask(&format!("r{number}"), &caller, target)));
        }
        // Uses a caller with all attributes: only Glimpse treats a missing project as different from a missing owner.
        let caller =
            json!({"roles": ["reader"], "project": "p1", "user": "u1", "user_domain": "d1", "project_domain": "d1"});
        let asks_for_nothing = ["domain_id:%", "system_scope:%"].iter().any(|check| rule.to_string().contains(check));
        if !asks_for_nothing {
            questions.push(ask(&format!("r{number}"), &caller, &without_values()));
        }
    }
    Files::new("", Some(&policy)).compare(&questions);
    // The same rules in JSON.
    let rules = rules.iter().enumerate().map(|(number, rule)| (format!("r{number}"), rule.clone()));
    let files = Files::new("[oslo_policy]\npolicy_file = policy.json\n", None);
    let all: serde_json::Map<String, Value> = rules.chain([("other".to_owned(), json!("role:reader"))]).collect();
    files.write("policy.json", &serde_json::to_string_pretty(&all).unwrap());
    files.compare(&questions.into_iter().step_by(7).collect::<Vec<_>>());
}

#[test]
fn rules_that_are_refused_always_deny_in_oslo_policy() {
    let refused = [
        "a b",
        "role:admin or",
        "and",
        "not",
        "()",
        "(role:a",
        "role:a)",
        " ",
        "nonsense",
        "'a':'b'",
        "\"a:b\"",
        "role:a role:b",
        "role:a and or role:b",
        "(role:a) (role:b)",
    ];
    let input: String = refused.iter().map(|rule| format!("{}\n", json!(rule))).collect();
    assert_eq!(oslo(&["parse"], &input), "never\n".repeat(refused.len()));
    for rule in refused {
        let files = Files::new(FAKE, Some(&format!("# why\nget_image: {}\n", json!(rule))));
        let (code, _, error) = files.run(&["serve"]);
        let expected = format!("glimpse: policy file {}:2: rule \"get_image\": ", files.path("policy.yaml").display());
        assert!(code == Some(1) && error.contains(&expected), "{rule}: {error}");
    }
}

#[test]
fn an_unusable_policy_file_is_one_error_and_prevents_the_start() {
    let wrong = |policy: &str, expected: &str| {
        let files = Files::new(FAKE, Some(policy));
        let expected = expected.replace("FILE", files.path("policy.yaml").to_str().unwrap());
        for command in [&["serve"][..], &["policy", "list"]] {
            let (code, _, error) = files.run(command);
            // A server first logs which authentication it uses.
            assert!(code == Some(1) && error.ends_with(&format!("glimpse: policy file {expected}\n")), "{error}");
        }
        let (code, out, _) = files.run(&["config", "check"]);
        assert_eq!(code, Some(1));
        assert!(
            out.contains(&format!("error: policy file {expected}\n")) && out.ends_with("cannot be used.\n"),
            "{out}"
        );
    };
    let http = "http://10.0.0.1/%(owner)s";
    let expected = "Glimpse does not support http: and https: checks";
    wrong(
        &format!("x: '@'\n\"get_image\": \"role:a or {http}\"\n"),
        &format!("FILE:2: rule \"get_image\": {http}: {expected}"),
    );
    wrong("get_image: [['https://x/']]\n", &format!("FILE:1: rule \"get_image\": https://x/: {expected}"));
    wrong("- get_image\n", "FILE:1: names with rules are expected: \"name\": \"rule\"");
    wrong("get_image: !\n", "FILE:1: a rule that begins with ! must be quoted");
    wrong(
        "get_image: project_id:%(owner)\n",
        "FILE:1: rule \"get_image\": \"%(owner\" has a % that is neither of %(name)s nor %%",
    );
}

#[test]
fn rules_without_effect_are_reported() {
    let policy =
        "get_imag: '@'\nmine: role:a\nget_image: rule:mine or rule:yours\nmodify_task: '!'\nx: rule:x\nmine: role:b\n";
    let (code, out, _) = Files::new("", Some(policy)).run(&["config", "check"]);
    assert_eq!(code, Some(0), "{out}");
    for warning in [
        "policy.yaml:1: policy rule \"get_imag\" has no effect: Glance has no such rule, and no rule refers to it; was \"get_image\" meant?",
        "policy.yaml:3: policy rule \"get_image\" refers to \"yours\", which is not defined: \"default\" is used instead, and allows everyone",
        "policy.yaml:4: policy rule \"modify_task\" is deprecated",
        "policy.yaml:5: policy rule \"x\" refers to itself",
        "policy.yaml:6: policy rule \"mine\" is defined twice; this one is used",
    ] {
        assert!(out.contains(warning), "{warning} is not in {out}");
    }
    assert_eq!(out.matches("warning: ").count(), 5, "{out}");
    let config = "[oslo_policy]\npolicy_file = mine.yaml\nenforce_scope = false\n";
    let (_, out, _) = Files::new(config, None).run(&["config", "check"]);
    assert!(out.contains("there is no mine.yaml; Glance's defaults are in force"), "{out}");
    assert!(out.contains("enforce_scope = false has no effect"), "{out}");
}

#[test]
fn policy_files_are_found_as_in_oslo_config_and_later_ones_win() {
    let files = Files::new("", Some("a: role:beside\nb: role:beside\nc: role:beside\nd: role:beside\n"));
    files.write("policy.d/20.yaml", "c: role:twenty\nd: role:twenty\n");
    files.write("policy.d/10.yaml", "b: role:ten\nc: role:ten\n");
    files.write("policy.d/.hidden", "a: role:hidden\n");
    files.write("policy.d/folder/x.yaml", "a: role:folder\n");
    files.write("second/30.json", "{\"d\": \"role:thirty\"}");
    files.write("conf/policy.yaml", "a: role:dir\n");
    let rules = |arguments: &[&str]| {
        let (_, out, _) = files.run(arguments);
        let mine = out.lines().filter(|line| !line.ends_with("# default"));
        mine.filter_map(|line| line.split("\"role:").nth(1)?.split('"').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rules(&["policy", "list"]), ["beside", "ten", "twenty", "twenty"]);
    files.write(
        "glance-api.conf",
        "[oslo_policy]\npolicy_dirs = policy.d\npolicy_dirs = second\npolicy_dirs = missing\n",
    );
    assert_eq!(rules(&["policy", "list"]), ["beside", "ten", "twenty", "thirty"]);
    let conf = files.path("conf");
    assert_eq!(rules(&["policy", "list", "--config-dir", conf.to_str().unwrap()]), ["dir", "ten", "twenty", "thirty"]);
}

#[test]
fn policy_check_evaluates_a_rule_and_explains_the_result() {
    let files = Files::new("", Some("mine: project_id:%(owner)s and not role:%(role)s\n"));
    let ask = |arguments: &[&str]| files.run(&[&["policy", "check"], arguments].concat());
    let (code, out, _) = ask(&["--rule", "get_image", "--roles", "Reader,x", "--project", "p", "--target", "owner=p"]);
    assert_eq!(code, Some(0), "{out}");
    let expected = "allowed\n  yes any of:\n    no  rule:context_is_admin\n      no  role:admin\n    yes all of:\n      yes role:reader\n      \
                    yes any of:\n        yes project_id:%(project_id)s, where project_id is \"p\" and the right side is \"p\"\n";
    assert_eq!(out, expected);
    let (code, out, _) = ask(&["--rule", "mine", "--roles", "a", "--target", "owner=p", "--target", "role=a"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("no  project_id:%(owner)s, where project_id is None and the right side is \"p\""), "{out}");
    let (code, out, _) = ask(&["--rule", "add_image", "--roles", "admin", "--scope", "system"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(1), "denied\n  no  the rule denies tokens that are not scoped to a project\n")
    );
    let (code, _, error) = ask(&["--rule", "get_imagee"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("there is no policy rule \"get_imagee\"; was \"get_image\" meant?"), "{error}");
    files.write("questions", "{\"rule\": \"mine\"}\n\n{\"rle\": 1}\n");
    let (code, out, error) = ask(&["--questions", files.path("questions").to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(1), "denied\n"));
    assert!(error.contains("questions:3: unknown field `rle`"), "{error}");
}

/// Builds a server whose policy files are in the test's folder.
fn server(files: &Files) -> ServerBuilder {
    TestServer::builder().option("oslo_policy", "policy_file", files.path("policy.yaml").display()).option(
        "oslo_policy",
        "policy_dirs",
        files.path("policy.d").display(),
    )
}

async fn create(client: &Client, body: Value) -> Answer {
    client.post("/v2/images", &body).await
}

#[tokio::test]
async fn a_policy_file_denies_and_allows() {
    let policy = "add_image: role:uploader\npublicize_image: \"'x':%(name)s or role:member\"\nget_images: rule:nobody\nnobody: '!'\n\
                  modify_image: \"'gold':%(name)s and True:%(protected)s and None:%(size)s and 7:%(min_disk)s\"\n";
    let files = Files::new("", Some(policy));
    let server = server(&files).start().await;
    let denied = create(&server.member("p1"), json!({})).await.expect(403);
    assert!(denied.text.contains("You are not authorized to complete add_image action."), "{}", denied.text);
    let uploader = server.client(Some("u:p1:uploader,member,reader"));
    let gold = json!({"name": "gold", "visibility": "public", "protected": true, "min_disk": 7});
    let gold = create(&uploader, gold).await.expect(201).json()["id"].clone();
    let lead = create(&uploader, json!({"name": "lead"})).await.expect(201).json()["id"].clone();
    let tag = |id: &Value| format!("/v2/images/{}/tags/x", id.as_str().unwrap());
    // The policy may also allow a caller that the defaults refuse. As in Glance, an image of another project stays
    // inaccessible, regardless of the policy.
    server.reader("p1").put(&tag(&gold)).await.expect(204);
    uploader.put(&tag(&lead)).await.expect(403);
    let others = server.reader("p2").put(&tag(&gold)).await.expect(403);
    assert!(others.text.contains("Not allowed to update tags for image"), "{}", others.text);
    server.admin().get("/v2/images").await.expect(403);
}

#[tokio::test]
async fn changed_policy_files_are_reloaded() {
    let files = Files::new("", None);
    let server = server(&files).start().await;
    let member = server.member("p1");
    // A change applies to the next request.
    let answers = async |status: u16| drop(create(&member, json!({})).await.expect(status));
    answers(201).await;
    files.write("policy.yaml", "add_image: '!'\n");
    answers(403).await;
    // Files in the folder take precedence, in the order of their names.
    files.write("policy.d/1.yaml", "add_image: '@'\n");
    answers(201).await;
    files.write("policy.d/2.yaml", "add_image: '!'\n");
    answers(403).await;
    fs::remove_file(files.path("policy.d/2.yaml")).unwrap();
    answers(201).await;
    // An invalid file leaves the rules unchanged, and is reported once.
    files.write("policy.yaml", "add_image: '!'\nget_image: '@\n");
    let told =
        |server: &TestServer| server.log().matches("policy cannot be loaded; the previous rules stay in force").count();
    eventually("the file is looked at", || std::future::ready((told(&server) > 0).then_some(()))).await;
    create(&member, json!({})).await.expect(201);
    files.write("policy.d/1.yaml", "add_image: 'nonsense'\n");
    eventually("the other file is looked at", || std::future::ready((told(&server) > 1).then_some(()))).await;
    create(&member, json!({})).await.expect(201);
    assert_eq!(told(&server), 2);
    files.write("policy.yaml", "add_image: role:member\n");
    files.write("policy.d/1.yaml", "");
    eventually("it is read again", || {
        std::future::ready(server.log().ends_with("policy was reloaded files=2\n").then_some(()))
    })
    .await;
    // An editor may remove the file for a moment.
    fs::remove_file(files.path("policy.yaml")).unwrap();
    files.write("policy.d/1.yaml", "add_image: '!'\n");
    eventually("it is missed", || {
        std::future::ready(
            server.log().contains("policy file was removed; the previous rules stay in force").then_some(()),
        )
    })
    .await;
    create(&member, json!({})).await.expect(201);
    files.write("policy.yaml", "");
    answers(403).await;
}

#[tokio::test]
async fn sighup_reloads_the_policy() {
    let files = Files::new("", Some("add_image: '!'\n"));
    let server = server(&files).start().await;
    server.hang_up();
    eventually("it is read again", || std::future::ready(server.log().contains("policy was reloaded").then_some(())))
        .await;
    create(&server.admin(), json!({})).await.expect(403);
}

#[tokio::test]
async fn the_old_defaults_let_owners_change_only_their_own_images() {
    let server = TestServer::builder().option("oslo_policy", "enforce_new_defaults", false).start().await;
    let nobody = server.client(Some("u:p1:whatever"));
    let id = create(&nobody, json!({"visibility": "community"})).await.expect(201).json()["id"].clone();
    let path = format!("/v2/images/{}", id.as_str().unwrap());
    let other = server.client(Some("u:p2:whatever"));
    other.get(&path).await.expect(200);
    other.delete(&path).await.expect(403).says("You do not own this image");
    other.put(&format!("{path}/tags/x")).await.expect(403).says("Not allowed to update tags for image");
    let denied = create(&other, json!({"owner": "p1"})).await.expect(403);
    assert!(denied.text.contains("You are not permitted to create images owned by &#x27;p1&#x27;."), "{}", denied.text);
    create(&other, json!({"visibility": "public"})).await.expect(403);
    nobody.put(&format!("{path}/tags/x")).await.expect(204);
    create(&server.admin(), json!({"owner": "p1"})).await.expect(201);
    nobody.delete(&path).await.expect(204);
}

#[tokio::test]
async fn rules_can_check_domains_and_service_roles() {
    let policy =
        "add_image: user_domain_id:d1 and project_domain_id:d2 and service_roles:service and is_admin_project:True\n";
    let files = Files::new("", Some(policy));
    let server = server(&files).option("glimpse", "auth", "proxy").start().await;
    let all = [
        ("x-identity-status", "Confirmed"),
        ("x-project-id", "p1"),
        ("x-user-domain-id", "d1"),
        ("x-project-domain-id", "d2"),
        ("x-service-user-id", "nova"),
        ("x-service-roles", "Service"),
    ];
    create(&server.anonymous().with_headers(&all), json!({})).await.expect(201);
    for without in 2..all.len() {
        let mut headers = all.to_vec();
        headers.remove(without);
        create(&server.anonymous().with_headers(&headers), json!({})).await.expect(403);
    }
    let outside = server.anonymous().with_headers(&all).with_headers(&[("x-is-admin-project", "False")]);
    create(&outside, json!({})).await.expect(403);
}

/// The cost of evaluating rules is limited; rules that exceed the limit deny.
#[tokio::test]
async fn rules_whose_evaluation_grows_exponentially_deny() {
    let doubled = (0..40).map(|n| format!("r{n}: rule:r{} or rule:r{}\n", n + 1, n + 1)).collect::<String>();
    let policy = format!("get_images: rule:r0\n{doubled}r40: role:nobody\n");
    let s = TestServer::builder().file("policy.yaml", &policy).start().await;
    s.member("p1").get("/v2/images").await.expect(403);
    s.anonymous().get("/healthcheck").await.expect(200);
}

/// The link to the next page names an image that the caller may see, so it does not reveal the ids of hidden images.
#[tokio::test]
async fn a_page_link_never_names_a_hidden_image() {
    let s = TestServer::builder().file("policy.yaml", "get_image: not 'secret':%(name)s\n").start().await;
    let member = s.member("p1");
    for name in ["open", "secret", "shown", "secret"] {
        member.create_image(&json!({"name": name})).await;
        // Some engines store times in whole seconds.
        s.database.execute("UPDATE images SET created_at = '2026-01-01 00:00:00.000000' WHERE name = 'open'").await;
        s.database.execute("UPDATE images SET created_at = '2026-01-03 00:00:00.000000' WHERE name = 'shown'").await;
        s.database.execute("UPDATE images SET created_at = '2026-01-04 00:00:00.000000' WHERE name = 'secret'").await;
    }
    let first = member.get("/v2/images?limit=3").await.expect(200).json();
    let names: Vec<&Value> = first["images"].as_array().unwrap().iter().map(|image| &image["name"]).collect();
    assert_eq!(names, ["shown"]);
    let last = member.get(first["next"].as_str().unwrap()).await.expect(200).json();
    assert_eq!((&last["images"][0]["name"], last.get("next")), (&json!("open"), None));
    let hidden = member.get("/v2/images?limit=1").await.expect(200).json();
    assert_eq!((&hidden["images"], hidden.get("next")), (&json!([]), None));
}

/// Images that are hidden because of their properties do not end a listing, even if they alone exceed the size of a
/// page.
#[tokio::test]
async fn a_page_of_hidden_images_does_not_end_the_listing() {
    let s = TestServer::builder().file("policy.yaml", "get_image: not 'yes':%(secret)s\n").start().await;
    let member = s.member("p1");
    let mut hidden = Vec::new();
    // The newest images come first: hidden ones of 9 MB each, then some visible ones.
    for (day, (name, secret, rows)) in [
        ("last", "no", 1),
        ("hidden", "yes", 1),
        ("shown", "no", 1),
        ("hidden", "yes", 140),
        ("hidden", "yes", 140),
        ("hidden", "yes", 140),
    ]
    .into_iter()
    .enumerate()
    {
        let image = member.create_image(&json!({"name": name, "secret": secret})).await;
        let id = image.rsplit('/').next().unwrap().to_owned();
        let created =
            format!("UPDATE images SET created_at = '2026-01-0{} 00:00:00.000000' WHERE id = '{id}'", day + 1);
        s.database.execute(&created).await;
        let value = "v".repeat(65_000);
        for part in (0..rows).collect::<Vec<_>>().chunks(70) {
            let row = |n: &i32| format!("('{id}', 'p{n}', '{value}', '2026-01-01 00:00:00', '0')");
            let rows = part.iter().map(row).collect::<Vec<_>>().join(", ");
            let columns = "image_id, name, value, created_at, deleted";
            s.database.execute(&format!("INSERT INTO image_properties ({columns}) VALUES {rows}")).await;
        }
        if name == "hidden" {
            hidden.push(id);
        }
    }
    let (mut path, mut names) = ("/v2/images?limit=4".to_owned(), Vec::new());
    loop {
        let answer = member.get(&path).await.expect(200);
        assert!(!hidden.iter().any(|id| answer.text.contains(id)), "{path} tells of a hidden image");
        let page = answer.json();
        names.extend(page["images"].as_array().unwrap().iter().map(|image| image["name"].clone()));
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["shown", "last"]);
    // A full page on which all images are hidden is the last page, as in Glance.
    let last = member.get("/v2/images?limit=3").await.expect(200).json();
    assert_eq!((&last["images"], last.get("next")), (&json!([]), None));
}

/// Rules see the custom properties that the caller may read. Requests by callers that do not own the image, but that a
/// relaxed rule allows to change it, are compared as well.
#[tokio::test]
async fn rules_see_the_same_image_attributes_as_in_glance() {
    let policy = "modify_image: 'role:member'\ndeactivate: \"'yes':%(off)s\"\nreactivate: 'role:member'\n\
        get_image: \"not 'yes':%(secret)s\"\npublicize_image: 'project_id:%(partner)s'\n\
        communitize_image: \"'1':%(grade)s or not 'x':%(tags)s and not 'x':%(nope)s and '2':%(grade)s\"\n\
        get_members: \"'1':%(grade)s\"\nget_member: '@'\ndelete_image: \"'1':%(hidden)s or '1':%(grade)s\"\n";
    let protections = "[^hidden$]\ncreate = member\nread = admin\nupdate = admin\ndelete = admin\n\
        [.*]\ncreate = @\nread = @\nupdate = @\ndelete = @\n";
    let options = [("DEFAULT", "property_protection_file", "protections.conf")];
    let files = [("policy.yaml", policy), ("protections.conf", protections)];
    let twins = Twins::start_alike(TestServer::builder(), &options, &files).await;
    let member = Persona::Member("p1");
    let bodies = [
        json!({"off": "yes", "grade": "1", "partner": "p1", "tags": ["t"]}),
        json!({"off": "no", "grade": "2", "partner": "p2"}),
        json!({"secret": "yes", "off": "yes"}),
        json!({"grade": "3", "disk_format": "raw"}),
    ];
    let set = |name: &str, value: &str| json!([{"op": "add", "path": format!("/{name}"), "value": value}]);
    for (n, body) in bodies.iter().enumerate() {
        let mut body = body.clone();
        body["id"] = json!(format!("{n:08x}-5c61-48ff-b4f3-0ad4e5e3ba90"));
        let image = format!("/v2/images/{}", body["id"].as_str().unwrap());
        twins.same(&Question::new(member, "POST", "/v2/images").json(&body)).await;
        twins.same(&Question::new(member, "GET", &image)).await;
        twins.same(&Question::new(member, "GET", format!("{image}/members"))).await;
        // The rules see the changes of earlier operations of the patch.
        let mut graded = set("grade", "1").as_array().unwrap().clone();
        graded.push(json!({"op": "replace", "path": "/visibility", "value": "community"}));
        for operations in [set("visibility", "public"), set("visibility", "community"), json!(graded)] {
            twins.same(&Question::new(member, "PATCH", &image).patch(&operations)).await;
        }
        for status in ["queued", "active", "deactivated"] {
            twins.both(&format!("UPDATE images SET status = '{status}'")).await;
            for action in ["deactivate", "reactivate"] {
                twins.same(&Question::new(Persona::Member("p2"), "POST", format!("{image}/actions/{action}"))).await;
            }
        }
        for (method, tag) in [("PUT", "x"), ("PUT", "t"), ("DELETE", "t"), ("DELETE", "nope")] {
            twins.same(&Question::new(Persona::Member("p2"), method, format!("{image}/tags/{tag}"))).await;
        }
        for persona in [Persona::Member("p2"), member, Persona::Admin] {
            twins.same(&Question::new(persona, "PATCH", &image).patch(&set("name", "x"))).await;
            twins.same(&Question::new(persona, "GET", "/v2/images?visibility=all&sort=name:asc,id:asc")).await;
            twins.same(&Question::new(persona, "DELETE", &image)).await;
        }
    }
    let body = json!({"id": "0000000f-5c61-48ff-b4f3-0ad4e5e3ba90", "hidden": "1", "owner": "p1"});
    twins.same(&Question::new(Persona::Admin, "POST", "/v2/images").json(&body)).await;
    for persona in [member, Persona::Admin] {
        twins.same(&Question::new(persona, "DELETE", format!("/v2/images/{}", body["id"].as_str().unwrap()))).await;
    }
}

#[tokio::test]
async fn an_undefined_rule_in_property_protections_is_reported() {
    let protections = "[a]\ncreate = modify_imag\nread = get_image\nupdate = modify_imag\ndelete = !\n";
    let s = TestServer::builder()
        .file("protections.conf", protections)
        .option("DEFAULT", "property_protection_file", "protections.conf")
        .option("DEFAULT", "property_protection_rule_format", "policies")
        .start()
        .await;
    let told =
        "property_protection_file refers to the policy rule \"modify_imag\", which is not defined: it denies everyone";
    assert_eq!(s.log().matches(told).count(), 1, "{}", s.log());
    assert!(s.log().contains("; was \"modify_image\" meant?"));
}
