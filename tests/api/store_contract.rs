//! What every kind of store promises, on a real server of each kind.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::{
    data::{begun_upload, bytes, chunked, download, files, status, upload, waiting_image, with_short_heartbeat},
    support::{Ceph, Client, S3, ServerBuilder, Swift, TestServer, eventually},
};

const MIB: usize = 1 << 20;
/// Long enough for several parts of every store here.
const LONG: usize = 12 * MIB + 345;

/// A store under test, with its server if it has one. It ends with the test.
trait Backend: Sized {
    /// An empty store. Its server may serve other tests as well.
    async fn begin() -> Self;
    /// An empty store that can be stopped.
    async fn begin_alone() -> Self {
        Self::begin().await
    }
    /// The options of a Glimpse whose default store this is.
    fn options(&self) -> Vec<(&'static str, &'static str, String)>;
    /// The names of everything in the store, including what unfinished uploads have stored.
    async fn contents(&self) -> Vec<String>;
    /// Makes the store unreachable.
    async fn stop(&mut self);
    /// Makes the store reachable again, with its data.
    async fn start_again(&mut self);
}

struct Files(TempDir);

impl Files {
    fn images(&self) -> PathBuf {
        self.0.path().join("images")
    }

    fn away(&self) -> PathBuf {
        self.0.path().join("away")
    }
}

impl Backend for Files {
    async fn begin() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn options(&self) -> Vec<(&'static str, &'static str, String)> {
        vec![
            ("DEFAULT", "enabled_backends", "fs:file".to_owned()),
            ("glance_store", "default_backend", "fs".to_owned()),
            ("fs", "filesystem_store_datadir", self.images().display().to_string()),
        ]
    }

    async fn contents(&self) -> Vec<String> {
        files(&self.images())
    }

    /// Puts a file in the place of its folder.
    async fn stop(&mut self) {
        fs::rename(self.images(), self.away()).unwrap();
        fs::write(self.images(), "").unwrap();
    }

    async fn start_again(&mut self) {
        fs::remove_file(self.images()).unwrap();
        fs::rename(self.away(), self.images()).unwrap();
    }
}

impl Backend for S3 {
    async fn begin() -> Self {
        Self::start().await
    }

    fn options(&self) -> Vec<(&'static str, &'static str, String)> {
        Self::options(self, &self.base())
    }

    async fn contents(&self) -> Vec<String> {
        [self.objects().await, self.parts().await].concat()
    }

    async fn stop(&mut self) {
        self.kill().await;
    }

    async fn start_again(&mut self) {
        Self::start_again(self).await;
    }
}

impl Backend for Swift {
    async fn begin() -> Self {
        Self::start().await
    }

    fn options(&self) -> Vec<(&'static str, &'static str, String)> {
        Self::options(self, &self.server.base())
    }

    async fn contents(&self) -> Vec<String> {
        self.objects().await
    }

    async fn stop(&mut self) {
        self.server.kill().await;
    }

    async fn start_again(&mut self) {
        self.server.start_again().await;
    }
}

impl Backend for Ceph {
    async fn begin() -> Self {
        Self::shared().await
    }

    async fn begin_alone() -> Self {
        Self::start().await
    }

    fn options(&self) -> Vec<(&'static str, &'static str, String)> {
        Self::options(self)
    }

    async fn contents(&self) -> Vec<String> {
        self.images().await
    }

    async fn stop(&mut self) {
        self.kill("osd").await;
    }

    async fn start_again(&mut self) {
        Self::start_again(self).await;
    }
}

fn server(store: &impl Backend) -> ServerBuilder {
    with_short_heartbeat().options(&store.options())
}

async fn range(client: &Client, image: &str, range: &str) -> (u16, Vec<u8>) {
    let response = client.request("GET", &format!("{image}/file")).header("Range", range).send().await.unwrap();
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

/// Ceph considers what a killed process has written to be in use for 30 seconds.
async fn is_empty(store: &impl Backend, what: &str) {
    let end = Instant::now() + Duration::from_secs(90);
    while !store.contents().await.is_empty() {
        assert!(Instant::now() < end, "{what}: {:?}", store.contents().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn data_of_any_length<B: Backend>() {
    let store = B::begin().await;
    let s = server(&store).start().await;
    let member = s.member("p1");
    let data = bytes(LONG);
    for length in [0, 1, 5 * MIB, LONG] {
        for is_told in [true, false] {
            let data = &data[..length];
            let image = waiting_image(&member).await;
            let body = if is_told { data.to_vec().into() } else { chunked(data) };
            upload(&member, &image, body).await.expect(204);
            let shown = member.get(&image).await.expect(200).json();
            assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(length)));
            assert!(download(&member, &image).await == data);
            if length > 0 {
                let (last, half) = (length - 1, length / 2);
                for (asked, from, to) in [
                    ("bytes=0-0".to_owned(), 0, 1),
                    (format!("bytes={half}-{last}"), half, length),
                    (format!("bytes={half}-"), half, length),
                    ("bytes=-1".to_owned(), last, length),
                ] {
                    let (status, part) = range(&member, &image, &asked).await;
                    assert!(status == 206 && part == data[from..to], "{asked} of {length}: {status}");
                }
                assert_eq!(range(&member, &image, &format!("bytes={length}-")).await.0, 416);
            }
            assert!(!store.contents().await.is_empty());
            upload(&member, &image, "again").await.expect(409);
            assert!(download(&member, &image).await == data);
            member.delete(&image).await.expect(204);
            is_empty(&store, "the data is removed").await;
        }
    }
}

async fn interrupted_uploads<B: Backend>() {
    let store = B::begin().await;
    let mut s = server(&store).start().await;
    let member = s.member("p1");
    let data = bytes(LONG);
    let begun = async |s: &TestServer, image: &str| {
        let stream = begun_upload(&s.base, image, &data).await;
        eventually("something is stored", || async { (!store.contents().await.is_empty()).then_some(()) }).await;
        stream
    };
    let image = waiting_image(&member).await;
    let is_queued = async |client: &Client| {
        eventually("the image is queued", || async { (status(client, &image).await == "queued").then_some(()) }).await;
        is_empty(&store, "nothing is left").await;
    };

    // The client disconnects.
    drop(begun(&s, &image).await);
    is_queued(&member).await;

    // The server is killed.
    let _stream = begun(&s, &image).await;
    s.kill();
    s.start_again().await;
    let member = s.member("p1");
    is_queued(&member).await;

    // The image is deleted.
    let mut stream = begun(&s, &image).await;
    member.delete(&image).await.expect(204);
    stream.write_all(&[1; 10]).await.unwrap();
    is_empty(&store, "nothing is left of a deleted image").await;

    // Another client uploads data to the same image.
    let image = waiting_image(&member).await;
    let _stream = begun(&s, &image).await;
    upload(&member, &image, "second").await.expect(409);
    assert_eq!(status(&member, &image).await, "saving");
}

async fn an_outage<B: Backend>() {
    let mut store = B::begin_alone().await;
    let s = server(&store).start().await;
    let member = s.member("p1");
    let data = bytes(LONG);
    let old = waiting_image(&member).await;
    upload(&member, &old, data.clone()).await.expect(204);
    let new = waiting_image(&member).await;

    store.stop().await;
    let response = member.request("GET", &format!("{old}/file")).send().await.unwrap();
    assert!(!response.status().is_success(), "{}", response.status());
    let answer = upload(&member, &new, data.clone()).await;
    assert!(answer.status.as_u16() >= 400, "{}", answer.text);
    assert_eq!(status(&member, &old).await, "active");

    store.start_again().await;
    eventually("the image of the failed upload is queued", || async {
        (status(&member, &new).await == "queued").then_some(())
    })
    .await;
    eventually("the data is read again", || async {
        let response = member.request("GET", &format!("{old}/file")).send().await.unwrap();
        let is_there = response.status() == 200 && response.bytes().await.is_ok_and(|read| read == data);
        is_there.then_some(())
    })
    .await;
    eventually("data is stored again", || async {
        (upload(&member, &new, data.clone()).await.status == 204).then_some(())
    })
    .await;
    assert!(download(&member, &new).await == data);
    for image in [old, new] {
        member.delete(&image).await.expect(204);
    }
    is_empty(&store, "the data is removed").await;
}

async fn a_delayed_deletion<B: Backend>() {
    let store = B::begin().await;
    let s = server(&store).option("DEFAULT", "delayed_delete", true).start().await;
    let member = s.member("p1");
    let image = waiting_image(&member).await;
    upload(&member, &image, "data").await.expect(204);
    member.delete(&image).await.expect(204);
    member.get(&image).await.expect(404);
    assert!(!store.contents().await.is_empty());
}

macro_rules! test_stores {
    ($($module:ident: $store:ty),+ $(,)?) => {
        $(mod $module {
            use super::*;

            #[tokio::test]
            async fn data_of_any_length_is_stored_read_and_removed() {
                data_of_any_length::<$store>().await;
            }

            #[tokio::test]
            async fn interrupted_uploads_leave_nothing() {
                interrupted_uploads::<$store>().await;
            }

            #[tokio::test]
            async fn a_store_is_used_again_after_an_outage() {
                an_outage::<$store>().await;
            }

            #[tokio::test]
            async fn a_delayed_deletion_keeps_the_data() {
                a_delayed_deletion::<$store>().await;
            }
        })+
    };
}

test_stores! {
    file: Files,
    rbd: Ceph,
    s3: S3,
    swift: Swift,
}
