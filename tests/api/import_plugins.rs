//! The plugins of imports: decompression, conversion and injected properties, their limits, and kills of the server meanwhile.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    data::{bytes, download, id, status},
    import::{ended, import, nothing_is_left, page, stage, staged, web, web_download, with_staging, with_stores},
    support::{Client, ServerBuilder, TestServer, eventually, program},
};

const DIRECT: &str = "glance-direct";

fn with_plugins(dir: &Path, plugins: &str) -> ServerBuilder {
    with_staging(dir).option("image_import_opts", "image_import_plugins", plugins)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An LHA archive with one entry, whose header is of level 0: the method, the compressed data, and the data.
fn lha(method: &str, compressed: &[u8], data: &[u8]) -> Vec<u8> {
    let crc = data
        .iter()
        .fold(0_u16, |crc, byte| (0..8).fold(crc ^ u16::from(*byte), |crc, _| (crc >> 1) ^ (0xA001 * (crc & 1))));
    let sizes = [compressed.len(), data.len()].map(|size| u32::try_from(size).unwrap().to_le_bytes());
    let header = [method.as_bytes(), &sizes.concat()[..], &[0; 4], &[0x20, 0, 4], b"disk", &crc.to_le_bytes()].concat();
    let sum = header.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [&[u8::try_from(header.len()).unwrap(), sum][..], &header[..], compressed, &[0]].concat()
}

/// Compresses zeros by LHA's method `-lh5-`. Their number is one more than a multiple of 256.
fn lh5_zeros(length: usize) -> Vec<u8> {
    // A block has the number of its commands, and three codes. Each code has only one word, which takes no bits of the data: the
    // command 0 is a zero, and the command 509 repeats the last byte 256 times.
    let block = |commands: usize, command: u16| format!("{commands:016b}{:010b}{:09b}{command:09b}{:08b}", 0, 0, 0);
    let mut bits = block(1, 0);
    let mut repeats = (length - 1) / 256;
    while repeats > 0 {
        let commands = repeats.min(0xFFFF);
        bits += &block(commands, 509);
        repeats -= commands;
    }
    // The decoder reads ahead.
    bits += &"0".repeat(64 - bits.len() % 8);
    let byte = |bits: &[u8]| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
    bits.as_bytes().chunks(8).map(byte).collect()
}

/// Creates an archive with Python's `zipfile`. The code gets the archive as `z` and the data as `d`.
fn zip(dir: &Path, data: &[u8], code: &str) -> Vec<u8> {
    let (source, target) = (dir.join("source"), dir.join("archive"));
    fs::write(&source, data).unwrap();
    let code = format!(
        "import sys, zipfile\nd = open(sys.argv[1], 'rb').read()\nwith zipfile.ZipFile(sys.argv[2], 'w') as z:\n  {code}"
    );
    run(Command::new("python3").arg("-c").arg(code).arg(source).arg(&target));
    fs::read(target).unwrap()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Creates an image with `qemu-img`, by converting raw data.
fn qemu(dir: &Path, data: &[u8], format: &str, options: &[&str]) -> Vec<u8> {
    let (source, target) = (dir.join("raw"), dir.join("converted"));
    fs::write(&source, data).unwrap();
    let mut command = Command::new("qemu-img");
    run(command.args(["convert", "-f", "raw", "-O", format]).args(options).arg(source).arg(&target));
    fs::read(target).unwrap()
}

/// Stages data for a new image, imports it, and returns the image with its task.
async fn imported(client: &Client, disk_format: &str, data: impl Into<Vec<u8>>) -> (String, Value) {
    let image = client.create_image(&json!({"disk_format": disk_format, "container_format": "bare"})).await;
    stage(client, &image, data.into()).await.expect(204);
    import(client, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
    let task = ended(client, &image).await;
    (image, task)
}

/// Checks that an import has failed with a message that contains `reason`, and has left the image as it was before.
async fn has_failed(client: &Client, disk_format: &str, (image, task): &(String, Value), reason: &str) {
    assert_eq!(task["status"], "failure", "{task}");
    let message = task["message"].as_str().unwrap();
    assert!(message.contains(reason) && !message.contains('/'), "{message}");
    let shown = client.get(image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["size"]), (&json!("queued"), &Value::Null));
    assert_eq!((&shown["disk_format"], &shown["virtual_size"]), (&json!(disk_format), &Value::Null));
    assert_eq!(
        (&shown["os_glance_importing_to_stores"], &shown["os_glance_failed_import"]),
        (&json!(""), &json!("fs"))
    );
}

#[tokio::test]
async fn compressed_data_is_decompressed() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_plugins(dir.path(), "[no_op,image_decompression]").start().await;
    let member = s.member("p1");
    let data = bytes(1_500_000).to_vec();
    let (first, second) = data.split_at(500_000);
    for archive in [
        gzip(&data),
        [gzip(first), gzip(second), vec![0; 700]].concat(),
        zip(dir.path(), &data, "z.writestr('disk.raw', d)"),
        zip(dir.path(), &data, "z.writestr('folder/disk.raw', d, zipfile.ZIP_DEFLATED)"),
        zip(dir.path(), &data, "f = z.open('disk.raw', 'w', force_zip64=True); f.write(d); f.close()"),
        lha("-lh0-", &data, &data),
        data.clone(),
    ] {
        let (image, task) = imported(&member, "raw", archive).await;
        assert_eq!(task["status"], "success", "{task}\n{}", s.log());
        let shown = member.get(&image).await.expect(200).json();
        assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(1_500_000)));
        assert_eq!(download(&member, &image).await, data);
    }
    let zeros = vec![0; 2_000_129];
    let (image, task) = imported(&member, "raw", lha("-lh5-", &lh5_zeros(zeros.len()), &zeros)).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    assert!(download(&member, &image).await == zeros);
    // An image whose container is an archive stays one.
    let image = member.create_image(&json!({"disk_format": "raw", "container_format": "compressed"})).await;
    stage(&member, &image, gzip(&data)).await.expect(204);
    import(&member, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "success");
    assert_eq!(download(&member, &image).await, gzip(&data));
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn an_archive_that_cannot_be_extracted_fails_the_import() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_plugins(dir.path(), "[image_decompression]").start().await;
    let member = s.member("p1");
    let data = bytes(100_000).to_vec();
    let mut damaged = zip(dir.path(), &data, "z.writestr('a', d)");
    damaged[1000] ^= 1;
    let bzip2 = zip(dir.path(), &data, "z.writestr('a', d, zipfile.ZIP_BZIP2)");
    let mut endless = zip(dir.path(), &data, "z.writestr('a', d)");
    let end = endless.len() - 22;
    endless[end + 8..end + 12].fill(0xFF);
    let one = lha("-lh0-", &data, &data);
    let two = [&one[..one.len() - 1], &one].concat();
    // A header of level 3 that claims to have 4 GiB.
    let mut large = lha("-lh0-", &data, &data);
    large[20] = 3;
    large[..2].copy_from_slice(&[4, 0]);
    large[24..31].fill(0xF0);
    large[31] = 0x70;
    for (archive, reason) in [
        (gzip(&data)[..50_000].to_vec(), "cannot be decompressed"),
        ([gzip(&data), b"garbage".to_vec()].concat(), "cannot be decompressed"),
        (zip(dir.path(), &data, "z.writestr('a', d); z.writestr('b', d)"), "Archive contains more than one file."),
        (zip(dir.path(), &data, "z.writestr('a', d)")[..50_000].to_vec(), "its end is missing"),
        (zip(dir.path(), &data, "z.mkdir('a')"), "it contains a directory"),
        (damaged, "checksum is wrong"),
        (bzip2, "its compression method is not supported"),
        (endless, "Archive contains more than one file."),
        (b"!!-lh5-".to_vec(), "cannot be decompressed"),
        (one[..99_000].to_vec(), "cannot be decompressed"),
        (two, "Archive contains more than one file."),
        (lha("-lhd-", b"", b""), "it contains a directory"),
        (lha("-lh1-", &data, &data), "its compression method is not supported"),
        (lha("-lh5-", &data, &data), "cannot be decompressed"),
        (lha("-lh0-", &data, &[1; 100_000]), "checksum is wrong"),
        (large, "cannot be decompressed"),
    ] {
        let imported = imported(&member, "raw", archive).await;
        has_failed(&member, "raw", &imported, reason).await;
        nothing_is_left(&s, dir.path()).await;
    }
}

#[tokio::test]
async fn decompressed_data_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let bomb = gzip(&vec![0; 20_000_000]);
    assert!(bomb.len() < 200_000);
    let lha_bomb = lha("-lh5-", &lh5_zeros(2_000_129), &vec![0; 2_000_129]);
    assert!(lha_bomb.len() < 100);
    for (option, reason) in [("image_size_cap", "too large"), ("user_storage_quota", "exceeds the storage quota")] {
        let s = with_plugins(dir.path(), "[image_decompression]").option("DEFAULT", option, 1_000_000).start().await;
        let member = s.member("p1");
        for bomb in [&bomb, &lha_bomb] {
            let bombed = imported(&member, "raw", bomb.clone()).await;
            has_failed(&member, "raw", &bombed, reason).await;
        }
        let (_, task) = imported(&member, "raw", gzip(&vec![0; 1_000_000])).await;
        assert_eq!(task["status"], "success", "{task}");
        nothing_is_left(&s, dir.path()).await;
    }
}

#[tokio::test]
async fn a_task_of_the_type_import_converts_its_data_to_conversion_format() {
    let dir = tempfile::tempdir().unwrap();
    let data = [vec![7; 300_000], vec![0; 1_797_152]].concat();
    let disk = qemu(dir.path(), &data, "qcow2", &[]);
    let (port, _) = web(vec![page(&disk), page(&data)]).await;
    let s = with_stores(dir.path(), port).option("taskflow_executor", "conversion_format", "raw");
    // The format of the plugin of other imports does not matter.
    let s = s.option("image_conversion", "output_format", "vmdk").start().await;
    let admin = s.admin();
    let input = json!({
        "import_from": format!("http://127.0.0.1:{port}/x"), "import_from_format": "qcow2",
        "image_properties": {"disk_format": "qcow2", "container_format": "bare"},
    });
    let imported = async || {
        let created = admin.post("/v2/tasks", &json!({"type": "import", "input": input})).await.expect(201).json();
        crate::tasks::ended(&admin, created["self"].as_str().unwrap()).await
    };
    let task = imported().await;
    assert_eq!((&task["status"], &task["message"]), (&json!("success"), &json!("")), "{task}\n{}", s.log());
    let image = format!("/v2/images/{}", task["result"]["image_id"].as_str().unwrap());
    let shown = admin.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["disk_format"]), (&json!("active"), &json!("raw")));
    assert_eq!((&shown["size"], &shown["virtual_size"]), (&json!(data.len()), &json!(data.len())));
    assert!(download(&admin, &image).await == data);
    nothing_is_left(&s, dir.path()).await;
    // Data of another format than the image's is refused.
    let task = imported().await;
    assert_eq!((&task["status"], &task["message"]), (&json!("failure"), &json!("Image format mismatch")), "{task}");
    assert_eq!(admin.get("/v2/images").await.json()["images"].as_array().unwrap().len(), 1);
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn images_are_converted_to_the_output_format() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_plugins(dir.path(), "[image_conversion]").start().await;
    let member = s.member("p1");
    let data = [vec![7; 300_000], vec![0; 1_797_152]].concat();
    for (format, qemu_format, options) in [
        ("qcow2", "qcow2", &[][..]),
        ("vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
        ("vdi", "vdi", &[]),
        ("vhdx", "vhdx", &[]),
        ("raw", "raw", &[]),
    ] {
        let (image, task) = imported(&member, format, qemu(dir.path(), &data, qemu_format, options)).await;
        assert_eq!(task["status"], "success", "{format} {task}\n{}", s.log());
        let shown = member.get(&image).await.expect(200).json();
        assert_eq!((&shown["disk_format"], &shown["container_format"]), (&json!("raw"), &json!("bare")));
        assert_eq!((&shown["size"], &shown["virtual_size"]), (&json!(data.len()), &json!(data.len())), "{format}");
        assert!(download(&member, &image).await == data, "{format}");
    }
    // A VHD is a little larger than its data.
    let (image, task) = imported(&member, "vhd", qemu(dir.path(), &data, "vpc", &[])).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    assert!(download(&member, &image).await.starts_with(&data));
    // As in Glance, an optical disc is not a disk to be converted.
    let mut disc = vec![0; 40_000];
    disc[0x8001..0x8006].copy_from_slice(b"CD001");
    let (image, task) = imported(&member, "iso", disc.clone()).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    assert_eq!(member.get(&image).await.json()["disk_format"], "iso");
    assert_eq!(download(&member, &image).await, disc);
    nothing_is_left(&s, dir.path()).await;
    let s = with_plugins(dir.path(), "[image_conversion]").option("image_conversion", "output_format", "qcow2");
    let s = s.start().await;
    let member = s.member("p1");
    let (image, task) = imported(&member, "raw", data.clone()).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["disk_format"], &shown["virtual_size"]), (&json!("qcow2"), &json!(data.len())));
    assert!(download(&member, &image).await.starts_with(b"QFI\xFB"));
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn data_that_cannot_be_converted_safely_fails_the_import() {
    let dir = tempfile::tempdir().unwrap();
    let s = with_plugins(dir.path(), "[image_conversion]").start().await;
    let member = s.member("p1");
    let data = bytes(2_000_000 / 512 * 512).to_vec();
    let qcow2 = qemu(dir.path(), &data, "qcow2", &[]);
    let image = |arguments: &[&str]| {
        let path = dir.path().join("made");
        run(Command::new("qemu-img").arg("create").args(arguments).arg(&path).arg("1M").current_dir(dir.path()));
        fs::read(path).unwrap()
    };
    let mut disc = vec![0; 40_000];
    disc[0x8001..0x8006].copy_from_slice(b"CD001");
    // The tables of the file are at its beginning, and the data that they refer to is missing.
    let truncated = qcow2[..300_000].to_vec();
    let mut clusters = qcow2.clone();
    // QEMU knows no clusters of this size.
    clusters[20..24].copy_from_slice(&30_u32.to_be_bytes());
    for (format, data, reason) in [
        ("qcow2", data.clone(), "Image format mismatch"),
        ("raw", qcow2.clone(), "Image format mismatch"),
        ("raw", disc, "Image has disallowed configuration"),
        ("qcow2", image(&["-f", "qcow2", "-b", "raw", "-F", "raw"]), "Image has disallowed configuration"),
        ("qcow2", image(&["-f", "qcow2", "-o", "data_file=outside"]), "Image has disallowed configuration"),
        ("qcow2", truncated, "The image's data is damaged or incomplete."),
        ("qcow2", clusters, "cannot be converted from qcow2: qemu-img: Could not open 'the image'"),
        ("ami", data.clone(), "Image format mismatch"),
    ] {
        let imported = imported(&member, format, data).await;
        has_failed(&member, format, &imported, reason).await;
        nothing_is_left(&s, dir.path()).await;
    }
    let vmdk = qemu(dir.path(), &data, "vmdk", &["-o", "subformat=streamOptimized"]);
    for (allowed, reason) in
        [("monolithicSparse", "Invalid VMDK create-type specified"), ("", "Image is a VMDK, but no VMDK createType")]
    {
        let s = with_plugins(dir.path(), "[image_conversion]").option("image_format", "vmdk_allowed_types", allowed);
        let s = s.start().await;
        let imported = imported(&s.member("p1"), "vmdk", vmdk.clone()).await;
        has_failed(&s.member("p1"), "vmdk", &imported, reason).await;
    }
}

/// Writes a `qemu-img` into a new folder, whose `convert` does what `convert` says, and returns the search path.
fn fake_qemu(dir: &Path, convert: &str) -> String {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join("qemu-img");
    let script = format!(
        "#!/bin/sh\ncd {}\ncase $1 in\nconvert) {convert} ;;\nesac\nexec /usr/bin/qemu-img \"$@\"\n",
        dir.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", bin.display())
}

/// Waits until the process whose id is in the file has ended.
async fn has_ended(pid: &Path) {
    eventually("the child is gone", || async {
        let pid = fs::read_to_string(pid).unwrap();
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_conversion_has_limits() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(1 << 20).to_vec();
    let qcow2 = qemu(dir.path(), &data, "qcow2", &[]);
    let hanging = fake_qemu(dir.path(), "echo $$ >pid; sleep 600");
    let s = with_plugins(dir.path(), "[image_conversion]")
        .option("glimpse", "conversion_timeout", 1)
        .environment("PATH", &hanging)
        .start()
        .await;
    let slow = imported(&s.member("p1"), "qcow2", qcow2.clone()).await;
    has_failed(&s.member("p1"), "qcow2", &slow, "qemu-img takes too long").await;
    has_ended(&dir.path().join("pid")).await;
    nothing_is_left(&s, dir.path()).await;
    // A process that uses the processor all the time.
    let busy = fake_qemu(dir.path(), "while :; do :; done");
    let s = with_plugins(dir.path(), "[image_conversion]")
        .option("glimpse", "conversion_timeout", 1)
        .environment("PATH", &busy)
        .start()
        .await;
    let slow = imported(&s.member("p1"), "qcow2", qcow2.clone()).await;
    has_failed(&s.member("p1"), "qcow2", &slow, "qemu-img takes too long").await;
    // What it writes is limited, whatever size the image claims to have.
    let writing = fake_qemu(dir.path(), "exec head -c 900000 /dev/zero >\"$7\"");
    let s = with_plugins(dir.path(), "[image_conversion]")
        .option("image_conversion", "output_format", "vmdk")
        .option("DEFAULT", "image_size_cap", qcow2.len().min(800_000))
        .environment("PATH", &writing)
        .start()
        .await;
    let small = qemu(dir.path(), &vec![0; 1 << 20], "qcow2", &[]);
    let large = imported(&s.member("p1"), "qcow2", small.clone()).await;
    has_failed(&s.member("p1"), "qcow2", &large, "too large").await;
    for (option, reason) in [("image_size_cap", "too large"), ("user_storage_quota", "exceeds the storage quota")] {
        let s = with_plugins(dir.path(), "[image_conversion]").option("DEFAULT", option, (1 << 20) - 1).start().await;
        let large = imported(&s.member("p1"), "qcow2", small.clone()).await;
        has_failed(&s.member("p1"), "qcow2", &large, reason).await;
        nothing_is_left(&s, dir.path()).await;
    }
}

#[tokio::test]
async fn an_import_without_qemu_img_fails() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("nothing").display().to_string();
    let s = with_plugins(dir.path(), "[image_conversion]").environment("PATH", &nothing).start().await;
    let (_, task) = imported(&s.member("p1"), "raw", bytes(512).to_vec()).await;
    assert_eq!((&task["status"], &task["message"]), (&json!("failure"), &json!("Task failed due to Internal Error")));
    assert!(s.log().contains("qemu-img cannot be started"), "{}", s.log());
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn plugins_run_in_order_also_after_a_download() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(1 << 20).to_vec();
    let (port, _) = web(vec![page(&gzip(&qemu(dir.path(), &data, "qcow2", &[])))]).await;
    let s = with_stores(dir.path(), port)
        .option("image_import_opts", "image_import_plugins", "[image_decompression, image_conversion]")
        .start()
        .await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    let mut body = web_download(port);
    body["all_stores"] = json!(true);
    import(&member, &image, &body).await.expect(202);
    let task = ended(&member, &image).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["disk_format"], &shown["stores"]), (&json!("raw"), &json!("fs,second")));
    assert!(download(&member, &image).await == data);
    nothing_is_left(&s, dir.path()).await;
    // If the store fails, the image has its own format again.
    let second = dir.path().join("second");
    fs::remove_dir_all(&second).unwrap();
    fs::write(&second, "a file").unwrap();
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    import(&member, &image, &body).await.expect(202);
    assert_eq!(ended(&member, &image).await["status"], "failure");
    let shown = member.get(&image).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["disk_format"]), (&json!("queued"), &json!("qcow2")));
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn properties_are_injected_into_the_images_of_callers_without_the_ignored_roles() {
    let dir = tempfile::tempdir().unwrap();
    let injected = "source:upload,os_glance_x:no,kept:new";
    let s = with_plugins(dir.path(), "[inject_image_metadata]")
        .option("inject_metadata_properties", "inject", injected)
        .start()
        .await;
    for (client, source, kept) in [(s.member("p1"), json!("upload"), "new"), (s.admin(), Value::Null, "old")] {
        let image =
            client.create_image(&json!({"disk_format": "raw", "container_format": "bare", "kept": "old"})).await;
        stage(&client, &image, "abc").await.expect(204);
        import(&client, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
        assert_eq!(ended(&client, &image).await["status"], "success");
        let shown = client.get(&image).await.expect(200).json();
        assert_eq!((&shown["source"], &shown["kept"], shown.get("os_glance_x")), (&source, &json!(kept), None));
    }
}

#[test]
fn an_unknown_plugin_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("glance-api.conf");
    fs::write(&config, "[image_import_opts]\nimage_import_plugins = [no_op, my_plugin]\n").unwrap();
    let output = program().arg("--config-file").arg(&config).arg("serve").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("there is no plugin 'my_plugin'"), "{text}");
}

#[tokio::test]
async fn an_image_that_is_deleted_while_its_data_is_converted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hanging = fake_qemu(dir.path(), "echo $$ >pid; sleep 600");
    let s = with_plugins(dir.path(), "[image_conversion]")
        .option("glimpse", "heartbeat", "0.2")
        .option("glimpse", "conversion_timeout", 2)
        .environment("PATH", &hanging)
        .start()
        .await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    stage(&member, &image, qemu(dir.path(), &bytes(1 << 20), "qcow2", &[])).await.expect(204);
    import(&member, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
    eventually("the conversion is begun", || async { dir.path().join("pid").exists().then_some(()) }).await;
    member.delete(&image).await.expect(204);
    eventually("nothing is left", || async { staged(dir.path()).is_empty().then_some(()) }).await;
    eventually("the job is ended", || async {
        (s.database.count("SELECT COUNT(*) FROM glimpse_jobs").await == 0).then_some(())
    })
    .await;
    has_ended(&dir.path().join("pid")).await;
}

/// A `qemu-img` whose first two conversions write a part, and hang.
fn hanging_qemu(dir: &Path) -> String {
    let convert = "if [ ! -e hung2 ]; then [ -e hung ] && touch hung2; touch hung; echo part >\"$7\"; echo $$ >pid; \
        sleep 600; fi";
    fake_qemu(dir, convert)
}

/// Kills the server during both of its conversions.
async fn kill_conversions(s: &mut TestServer, dir: &Path) {
    for _ in 0..2 {
        let pid = dir.join("pid");
        eventually("the conversion is begun", || async { pid.exists().then_some(()) }).await;
        s.kill();
        // The child does not outlive the server.
        has_ended(&pid).await;
        // The data that the step began with, and a part of the result.
        let versions = staged(dir);
        assert_eq!(versions.len(), 2, "{versions:?}");
        fs::remove_file(pid).unwrap();
        s.start_again().await;
    }
}

#[tokio::test]
async fn a_conversion_survives_kills_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(1 << 20).to_vec();
    let mut s = with_plugins(dir.path(), "[image_decompression,image_conversion,no_op]")
        .environment("PATH", &hanging_qemu(dir.path()))
        .start()
        .await;
    let member = s.member("p1");
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    stage(&member, &image, gzip(&qemu(dir.path(), &data, "qcow2", &[]))).await.expect(204);
    import(&member, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
    kill_conversions(&mut s, dir.path()).await;
    let member = s.member("p1");
    let task = ended(&member, &image).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    assert!(download(&member, &image).await == data);
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn a_conversion_of_a_task_of_the_type_import_survives_kills_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(1 << 20).to_vec();
    let (port, heard) = web(vec![page(&qemu(dir.path(), &data, "qcow2", &[]))]).await;
    let mut s = with_stores(dir.path(), port)
        .option("taskflow_executor", "conversion_format", "raw")
        .environment("PATH", &hanging_qemu(dir.path()))
        .start()
        .await;
    let input = json!({
        "import_from": format!("http://127.0.0.1:{port}/x"), "import_from_format": "qcow2",
        "image_properties": {"disk_format": "qcow2", "container_format": "bare"},
    });
    let created = s.admin().post("/v2/tasks", &json!({"type": "import", "input": input})).await.expect(201).json();
    kill_conversions(&mut s, dir.path()).await;
    let task = crate::tasks::ended(&s.admin(), created["self"].as_str().unwrap()).await;
    assert_eq!(task["status"], "success", "{task}\n{}", s.log());
    let image = format!("/v2/images/{}", task["result"]["image_id"].as_str().unwrap());
    assert!(download(&s.admin(), &image).await == data);
    assert_eq!(heard.lock().unwrap().len(), 1, "the data was downloaded again");
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn a_decompression_survives_kills_of_the_server_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(40_000_000).to_vec();
    // An archive in an archive: a second decompression of the same data would be visible.
    let inner = gzip(&data);
    let archive = gzip(&inner);
    let mut s = with_plugins(dir.path(), "[image_decompression]").start().await;
    let mut images = Vec::new();
    for pause in [0, 10, 30, 60, 100, 200, 400, 800] {
        let member = s.member("p1");
        let image = member.create_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
        stage(&member, &image, archive.clone()).await.expect(204);
        import(&member, &image, &json!({"method": {"name": DIRECT}})).await.expect(202);
        images.push(image);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        s.kill();
        s.start_again().await;
    }
    let member = s.member("p1");
    for image in &images {
        let task = ended(&member, image).await;
        assert_eq!(task["status"], "success", "{task}\n{}", s.log());
        assert_eq!(status(&member, image).await, "active");
        assert!(download(&member, image).await == inner, "{}", id(image));
    }
    nothing_is_left(&s, dir.path()).await;
}

#[tokio::test]
async fn a_download_that_was_staged_on_a_node_that_is_gone_is_repeated() {
    let (dir, gone, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), bytes(1 << 20));
    let (port, heads) = web(vec![page(&gzip(&qemu(dir.path(), &data, "qcow2", &[])))]).await;
    let node = |staging: &Path| {
        with_stores(dir.path(), port)
            .option("os_glance_staging_store", "filesystem_store_datadir", staging.join("staging").display())
            .option("image_import_opts", "image_import_plugins", "[image_decompression, image_conversion]")
    };
    let hanging = fake_qemu(dir.path(), "echo $$ >pid; sleep 600");
    let mut first = node(gone.path()).environment("PATH", &hanging).start().await;
    let member = first.member("p1");
    let image = member.create_image(&json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    import(&member, &image, &web_download(port)).await.expect(202);
    eventually("the conversion is begun", || async { dir.path().join("pid").exists().then_some(()) }).await;
    let second = node(dir.path()).database(first.database.clone()).start().await;
    first.kill();
    let member = second.member("p1");
    let task = ended(&member, &image).await;
    assert_eq!(task["status"], "success", "{task}\n{}", second.log());
    assert!(download(&member, &image).await == data);
    assert_eq!(heads.lock().unwrap().len(), 2);
    nothing_is_left(&second, dir.path()).await;
}
