//! The format inspection, compared with oslo.utils and Glance on files made by `qemu-img` and on mutations of these
//! files; and properties that must hold for any content.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "fuzz/src/exercise.rs"]
mod exercise;
#[path = "../src/inspect/mod.rs"]
mod inspect;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use exercise::exercise;
use inspect::{Format, Inspection, Rejection, Rules, VirtualSize, verdict};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The size of the chunks in which Glance reads an upload.
const GLANCE_CHUNK: usize = 64 * 1024;
/// The number of mutated files that are compared.
const MUTATIONS: usize = 3000;

/// The formats found in a stream, each with its virtual size (none if it is unreadable), whether it is complete, and
/// the checks that failed.
type Seen = BTreeMap<String, (Option<u64>, bool, Vec<String>)>;

/// The disk images of a test.
struct Corpus {
    _dir: TempDir,
    files: Vec<PathBuf>,
}

impl Corpus {
    fn new() -> Self {
        let dir = TempDir::with_prefix("glimpse-inspect-").unwrap();
        let made = |arguments: &str| {
            let mut command = Command::new("qemu-img");
            let output = command
                .args(arguments.split(' '))
                .current_dir(&dir)
                .output()
                .unwrap_or_else(|error| panic!("qemu-img: {error}; run tests/install"));
            assert!(output.status.success(), "qemu-img {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
        write("patterned.raw", &(0..=255).cycle().take(200_000).collect::<Vec<u8>>());
        for arguments in [
            "create -f raw zeros.raw 1M",
            "create -f qcow2 plain.qcow2 1G",
            "create -f qcow2 -o compat=0.10 old.qcow2 1G",
            "create -f qcow2 -b plain.qcow2 -F qcow2 backed.qcow2",
            "create -f qcow2 -o data_file=data.raw,data_file_raw=on outside.qcow2 1M",
            "create -f qcow2 -o extended_l2=on extended.qcow2 1M",
            "create -f qcow2 -o compression_type=zstd,lazy_refcounts=on zstd.qcow2 1M",
            "create -f qcow older.qcow 1M",
            "convert -f raw -O qcow2 -c patterned.raw full.qcow2",
            "create -f qed some.qed 64M",
            "create -f vmdk sparse.vmdk 1M",
            "create -f vmdk -b sparse.vmdk -F vmdk child.vmdk",
            "create -f vmdk -o subformat=monolithicFlat flat.vmdk 1M",
            "create -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 1M",
            "convert -f raw -O vmdk -o subformat=streamOptimized patterned.raw stream.vmdk",
            "create -f vpc dynamic.vhd 64M",
            "create -f vpc -o subformat=fixed fixed.vhd 1M",
            "convert -f raw -O vpc patterned.raw full.vhd",
            "create -f vhdx dynamic.vhdx 64M",
            "convert -f raw -O vhdx -o subformat=fixed patterned.raw fixed.vhdx",
            "create -f vdi dynamic.vdi 64M",
            "convert -f raw -O vdi -o static=on patterned.raw fixed.vdi",
            "create -f luks --object secret,id=s,data=secret -o key-secret=s,iter-time=10 some.luks 1M",
            "create -f parallels some.parallels 64M",
        ] {
            made(arguments);
        }
        for (name, content) in crafted() {
            write(name, &content);
        }
        let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        // No format reads further than this, and reading the rest repeatedly would be slow.
        for file in &files {
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len().min(4 << 20)).unwrap();
        }
        Self { _dir: dir, files }
    }
}

/// Images that `qemu-img` cannot create.
fn crafted() -> Vec<(&'static str, Vec<u8>)> {
    let mbr = |entries: &[(usize, [u8; 16])]| {
        let mut disk = vec![0; 100_000];
        for (n, entry) in entries {
            disk[446 + n * 16..][..16].copy_from_slice(entry);
        }
        disk[510..512].copy_from_slice(b"\x55\xaa");
        disk
    };
    let protective = [0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
    let linux = [0x80, 0, 33, 3, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
    let disc = |mut disk: Vec<u8>| {
        let volume = &mut disk[32 * 1024..];
        volume[..6].copy_from_slice(b"\x01CD001");
        volume[80..84].copy_from_slice(&40u32.to_le_bytes());
        volume[128..130].copy_from_slice(&2048u16.to_le_bytes());
        disk
    };
    let mut fat = mbr(&[]);
    fat[0x10] = 2;
    fat[0x15] = 0xF8;
    vec![
        ("empty", Vec::new()),
        ("script", b"#!/bin/sh\necho hello\n".repeat(100)),
        ("fat", fat),
        ("gpt", mbr(&[(0, protective)])),
        ("gpt-with-more", mbr(&[(0, protective), (1, linux)])),
        ("mbr", mbr(&[(0, linux), (1, linux)])),
        ("boot-sector", mbr(&[])),
        ("disc", disc(vec![0; 100_000])),
        ("hybrid-disc", disc(mbr(&[(0, protective)]))),
        ("hybrid-disc-with-more", disc(mbr(&[(0, protective), (1, linux)]))),
        ("disc-in-qcow2", disc(exercise::content(Format::Qcow2, &[0; 100_000]))),
    ]
}

/// A question for Glance: a file with changes, and the claims about it.
struct Question<'q> {
    file: &'q Path,
    changes: Vec<(usize, Vec<u8>)>,
    length: Option<usize>,
    claimed: &'q str,
    container: &'q str,
    require_match: bool,
    nonfatal: Vec<String>,
}

impl<'q> Question<'q> {
    fn about(file: &'q Path, claimed: &'q str) -> Self {
        Self { file, changes: vec![], length: None, claimed, container: "bare", require_match: true, nonfatal: vec![] }
    }

    fn content(&self) -> Vec<u8> {
        let mut content = fs::read(self.file).unwrap();
        for (at, bytes) in &self.changes {
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        content.truncate(self.length.unwrap_or(usize::MAX));
        content
    }
}

/// `tests/inspect-reference.py`
struct Glance {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Glance {
    fn start() -> Self {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(home.join("target/test-services/bin/python"));
        command.args(["-W", "ignore"]).arg(home.join("tests/inspect-reference.py"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process =
            command.spawn().unwrap_or_else(|error| panic!("Glance, which tests/install installs: {error}"));
        let questions = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, questions, answers }
    }

    /// Returns what Glance finds (none if it fails because of a bug of its own), the error with which it refuses the
    /// file, and the virtual size.
    fn ask(&mut self, question: &Question<'_>, chunk: usize) -> (Option<Seen>, Option<String>, Value) {
        let question = json!({
            "path": question.file, "changes": question.changes, "length": question.length, "chunk": chunk,
            "disk_format": question.claimed, "container_format": question.container,
            "require_match": question.require_match, "nonfatal": question.nonfatal,
        });
        writeln!(self.questions, "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        let seen = answer["found"].as_object().map(|found| {
            found.iter().map(|(format, found)| {
                // Numbers that are too large are floating-point here; negative sizes have no meaning.
                let size = &found["size"];
                let size = size.as_u64().or_else(|| size.as_i64().is_some().then_some(0));
                let failures = found["failures"].as_array().unwrap().iter();
                let failures = failures.map(|check| check.as_str().unwrap().to_owned()).collect();
                (format.clone(), (size, found["complete"] == true, failures))
            })
        });
        let refusal = answer["refusal"].as_str().map(str::to_owned);
        (seen.map(Iterator::collect), refusal, answer["virtual_size"].clone())
    }
}

impl Drop for Glance {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Glimpse's results in the form of the reference.
fn seen(inspection: &Inspection) -> Seen {
    let seen = inspection.found.iter().map(|found| {
        let size = match found.virtual_size {
            VirtualSize::Bytes(bytes) => Some(bytes),
            VirtualSize::Unknown => Some(0),
            VirtualSize::Unreadable => None,
        };
        let mut failures: Vec<_> = found.failures.iter().map(|failure| failure.check.as_str().to_owned()).collect();
        failures.sort();
        // The reference reports no failures of an incomplete format.
        let failures = if found.complete { failures } else { vec![] };
        (found.format.as_str().to_owned(), (size, found.complete, failures))
    });
    seen.collect()
}

/// The reason why Glimpse's result differs from the reference's. The reference's result depends on how the stream is
/// split into chunks, so formats that it recognises only across two chunks, or only by chance within one, are among the
/// reasons.
fn known_difference(ours: &Seen, theirs: Option<&Seen>, content: &[u8]) -> Option<&'static str> {
    let Some(theirs) = theirs else {
        // The reference's VMDK inspector reads an attribute of itself that does not exist.
        return (!content.starts_with(b"KDMV")).then_some("a text that is not ASCII makes the reference fail");
    };
    // Glimpse reports no size for a refused file, and the size does not matter.
    let but_size = |seen: &Seen, format: &str| {
        let mut seen = seen.clone();
        seen.entry(format.to_owned()).and_modify(|found| found.0 = None);
        seen
    };
    let without = |seen: &Seen, format: &str| {
        let mut seen = seen.clone();
        seen.remove(format);
        seen.remove("raw");
        seen
    };
    let failed = |seen: &Seen, format: &str| seen.get(format).is_some_and(|found| !found.2.is_empty());
    if failed(ours, "vmdk") && failed(theirs, "vmdk") && but_size(ours, "vmdk") == but_size(theirs, "vmdk") {
        return Some("a dangerous VMDK's size does not matter");
    }
    if without(ours, "vmdk") == without(theirs, "vmdk") && failed(ours, "vmdk") {
        return Some(match theirs.get("vmdk") {
            None => "a text that describes a disk is a VMDK, wherever in it the description is",
            Some((_, false, _)) => "a VMDK with a misplaced descriptor is dangerous, and not incomplete",
            Some((_, _, failures)) if failures.is_empty() => "a VMDK that QEMU reads otherwise is dangerous",
            Some(_) => "a dangerous VMDK's failures are counted otherwise",
        });
    }
    let complete = |seen: &Seen| seen.get("vhdx").map(|found| found.1);
    if without(ours, "vhdx") == without(theirs, "vhdx")
        && complete(ours).is_some()
        && complete(ours) != complete(theirs)
    {
        return Some("a VHDX whose tables point backwards or at each other is read by luck");
    }
    None
}

/// Compares both sides on one question. Returns the reason of a known difference, or an error that describes an unknown
/// one.
fn compare(
    glance: &mut Glance,
    question: &Question<'_>,
    chunk: usize,
    pattern: &[usize],
) -> Result<Option<&'static str>, String> {
    let content = question.content();
    let inspection = exercise(&content, pattern);
    let about = || {
        let (file, changes) = (question.file.display(), &question.changes);
        format!("{file} as {}, {changes:?}, cut to {:?}", question.claimed, question.length)
    };
    let (theirs, their_refusal, their_size) = glance.ask(question, chunk);
    let ours = seen(&inspection);
    if question.container == "bare" && Some(&ours) != theirs.as_ref() {
        let known = known_difference(&ours, theirs.as_ref(), &content);
        return known.map(Some).ok_or_else(|| format!("{}: {ours:?}, and not {theirs:?}", about()));
    }
    let rules = Rules { require_match: question.require_match, nonfatal: &question.nonfatal };
    let (refusal, size) = match verdict(&inspection, question.claimed, question.container, rules) {
        Ok(size) => (None, size),
        // Glance lists the formats in any order.
        Err(Rejection::SeveralFormats(_)) if their_refusal.as_ref().is_some_and(|text| text.contains(',')) => {
            (their_refusal.clone(), None)
        }
        Err(refusal) => (Some(refusal.to_string()), None),
    };
    let known = match their_size.as_i64() {
        _ if question.claimed == "vhd" && inspection.fixed_vhd.is_some() => Some("a fixed VHD has a footer"),
        None if !their_size.is_null() && size.is_none() => Some("Glance takes a size that its database does not"),
        Some(..0) if size.is_none() => Some("Glance takes a negative size"),
        _ => None,
    };
    if known.is_some() || (&refusal, json!(size)) == (&their_refusal, their_size.clone()) {
        return Ok(known);
    }
    Err(format!("{}: {refusal:?} {size:?}, and not {their_refusal:?} {their_size}", about()))
}

/// The results of all comparisons.
#[derive(Default)]
struct Report {
    compared: usize,
    known: BTreeMap<&'static str, usize>,
    unknown: Vec<String>,
}

impl Report {
    fn note(&mut self, result: Result<Option<&'static str>, String>) {
        self.compared += 1;
        match result {
            Ok(known) => known.into_iter().for_each(|reason| *self.known.entry(reason).or_default() += 1),
            Err(unknown) => self.unknown.push(unknown),
        }
    }

    #[expect(clippy::print_stdout, reason = "for a developer who runs the test with --nocapture")]
    fn print(&self) {
        println!("{} compared", self.compared);
        for (reason, count) in &self.known {
            println!("{count:5} {reason}");
        }
        let shown = self.unknown.iter().take(30).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(self.unknown.is_empty(), "{} unknown differences, such as\n{shown}", self.unknown.len());
    }
}

#[test]
fn disk_images_made_by_qemu_are_recognised_as_in_glance() {
    let corpus = Corpus::new();
    let mut glance = Glance::start();
    let mut report = Report::default();
    for file in &corpus.files {
        // Chunk boundaries do not affect Glimpse's result, and affect only the list of formats in the reference.
        let content = fs::read(file).unwrap();
        let smallest = if content.len() > 1 << 20 { 7 } else { 1 };
        for size in [smallest, 7, 512, 65536] {
            exercise(&content, &[size]);
        }
        let named = file.extension().and_then(|extension| extension.to_str()).unwrap_or("iso");
        for claimed in Format::ALL.iter().map(|format| format.as_str()).chain(["aki", "ami", "ploop"]) {
            report.note(compare(&mut glance, &Question::about(file, claimed), GLANCE_CHUNK, &[65536]));
        }
        for claimed in [named, "raw", "aki"] {
            let lenient = Question { require_match: false, ..Question::about(file, claimed) };
            report.note(compare(&mut glance, &lenient, 512, &[65536]));
            let excused = Question { nonfatal: vec!["mbr".to_owned()], ..Question::about(file, claimed) };
            report.note(compare(&mut glance, &excused, GLANCE_CHUNK, &[65536]));
        }
        let contained = Question { container: "ovf", ..Question::about(file, named) };
        report.note(compare(&mut glance, &contained, GLANCE_CHUNK, &[65536]));
    }
    report.print();
    // `child.vmdk` has a parent: it is the only file by qemu-img that the reference accepts and Glimpse refuses.
    let known = ["a VMDK that QEMU reads otherwise is dangerous", "a fixed VHD has a footer"];
    assert_eq!(report.known.keys().copied().collect::<Vec<_>>(), known);
}

#[test]
fn mutated_disk_images_are_recognised_as_in_glance() {
    let corpus = Corpus::new();
    let mut glance = Glance::start();
    let mut random = StdRng::seed_from_u64(5);
    let mut report = Report::default();
    let claims = ["raw", "aki", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "gpt", "luks"];
    for n in 0..MUTATIONS {
        let file = &corpus.files[n % corpus.files.len()];
        let size = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
        // The regions that formats read: headers, tables, the descriptor and the footer; rarely any other position.
        let regions = [
            (0, 128),
            (0, 128),
            (0, 600),
            (440, 72),
            (512, 400),
            (32 * 1024, 140),
            (192 * 1024, 100),
            (3 << 20, 300),
            ((3 << 20) + 65536, 16),
            (size.saturating_sub(1536), 1536),
            (0, size),
        ];
        let mut changes = Vec::new();
        for _ in 0..random.random_range(1..4) {
            let (start, length) = regions[random.random_range(0..regions.len())];
            if start + 8 < size {
                let at = start + random.random_range(0..length.min(size - start - 8).max(1));
                let bytes: Vec<u8> = (0..[1, 1, 1, 2, 4, 8][random.random_range(0..6)])
                    .map(|_| [0, 1, 0xFF, b'/', b'\n', random.random()][random.random_range(0..6)])
                    .collect();
                changes.push((at, bytes));
            }
        }
        let length = (size > 0 && n % 7 == 0).then(|| random.random_range(0..=size.min([600, 70_000, size][n % 3])));
        let claimed = match file.extension().and_then(|extension| extension.to_str()) {
            Some(format) if n % 2 == 0 && claims.contains(&format) => format,
            _ => claims[random.random_range(0..claims.len())],
        };
        let question = Question { changes, length, require_match: n % 5 != 0, ..Question::about(file, claimed) };
        let pattern = [[1, 7, 512, 65536], [65536, 1, 1, 7], [512, 7, 4096, 65536]][n % 3];
        report.note(compare(&mut glance, &question, GLANCE_CHUNK, &pattern));
    }
    report.print();
    let known = report.known.values().sum::<usize>();
    assert!(known < MUTATIONS / 10, "{known} differences are too many to have reasons");
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_result_for_any_content_is_independent_of_chunk_boundaries(
        format in any_format(),
        data in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0), 1 => Just(b'\n')], 0..4096),
        sizes in prop::collection::vec(1usize..70_000, 1..8),
    ) {
        exercise(&exercise::content(format, &data), &sizes);
    }

    #[test]
    fn the_result_for_any_text_is_independent_of_chunk_boundaries(
        magic in any::<bool>(),
        lines in prop::collection::vec(
            prop_oneof![
                "(createType|createtype)=\"(monolithicSparse|streamOptimized|vmfs)\"",
                "(RW|RDONLY|rw|NOACCESS)[ \t]{1,2}[0-9]{1,4} (SPARSE|FLAT|ZERO) \"[a-z/.=]{1,8}\"",
                "(ddb.|#|parentFileNameHint=|x=)[ -~]{0,20}",
                "\\PC{0,40}",
            ],
            0..200,
        ),
        sizes in prop::collection::vec(1usize..4000, 1..8),
    ) {
        let text = lines.join("\n");
        let content = if magic { exercise::content(Format::Vmdk, text.as_bytes()) } else { text.into_bytes() };
        exercise(&content, &sizes);
    }
}
