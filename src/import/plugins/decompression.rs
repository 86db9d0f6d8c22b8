//! `image_decompression`: extracts an image from a gzip file, or from a ZIP or LHA archive of one file.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _},
};

use delharc::{LhaDecodeReader, LhaError, LhaHeader, decode::DecoderAny};
use flate2::bufread::{DeflateDecoder, GzDecoder};

use super::{Bound, Files, Progress, Unfinished, staging_failed, zip};
use crate::error::{Error, Result};

/// The size of a read, and of a write, in bytes.
const BUFFER: usize = 256 * 1024;

/// The kinds of archives that Glance recognises, by bytes at an offset, in Glance's order.
const MAGIC: [(usize, &[u8], Archive); 3] =
    [(0, b"PK\x03\x04", Archive::Zip), (2, b"-lh", Archive::Lha), (0, b"\x1F\x8B\x08", Archive::Gzip)];
/// The number of bytes at the beginning that decide.
const HEAD: u64 = 5;
/// The maximum size in bytes of the header of a file in an LHA archive. Its format allows 4 GiB, which a decoder keeps in memory.
const MAX_LHA_HEADER: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archive {
    Zip,
    Lha,
    Gzip,
}

fn recognise(head: &[u8]) -> Option<Archive> {
    let found = MAGIC.iter().find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    found.map(|(.., archive)| *archive)
}

/// Extracts the data, and returns its size in bytes; `None` if it is not compressed.
///
/// # Errors
/// `Invalid` for an archive that cannot be extracted, `LimitExceeded`, `Unavailable`.
pub(super) fn decompress(files: &Files, bound: Bound, progress: &Progress) -> Result<Option<u64>> {
    let mut source = File::open(&files.source).map_err(staging_failed)?;
    let mut head = Vec::new();
    (&mut source).take(HEAD).read_to_end(&mut head).map_err(staging_failed)?;
    let Some(archive) = recognise(&head) else { return Ok(None) };
    source.rewind().map_err(staging_failed)?;
    let unfinished = Unfinished::new(&files.target);
    let target = File::create_new(&files.target).map_err(staging_failed)?;
    let mut output = Output { target, written: 0, bound, progress, buffer: vec![0; BUFFER] };
    match archive {
        Archive::Zip => unzip(source, &mut output)?,
        Archive::Gzip => gunzip(BufReader::with_capacity(BUFFER, source), &mut output)?,
        Archive::Lha => extract_lha(BufReader::with_capacity(BUFFER, source), &mut output)?,
    }
    output.target.sync_all().map_err(staging_failed)?;
    unfinished.keep();
    Ok(Some(output.written))
}

/// The file that the data is written to.
struct Output<'p> {
    target: File,
    written: u64,
    bound: Bound,
    progress: &'p Progress,
    buffer: Vec<u8>,
}

impl Output<'_> {
    /// Writes all bytes of a decoder, and returns their checksum.
    fn write(&mut self, mut decoder: impl Read) -> Result<flate2::Crc> {
        let mut crc = flate2::Crc::new();
        loop {
            let read = match decoder.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| corrupt(&error.to_string()))?,
            };
            if read == 0 {
                return Ok(crc);
            }
            self.written += read as u64;
            if self.written > self.bound.bytes() {
                return Err(self.bound.exceeded(self.written));
            }
            crc.update(&self.buffer[..read]);
            self.target.write_all(&self.buffer[..read]).map_err(staging_failed)?;
            self.progress.reached(self.written)?;
        }
    }
}

fn corrupt(why: &str) -> Error {
    Error::Invalid(format!("The image's data cannot be decompressed: {why}"))
}

/// Extracts all members of a gzip file. As in Python, zeros after a member are skipped.
fn gunzip(mut source: impl BufRead, output: &mut Output<'_>) -> Result<()> {
    loop {
        output.write(GzDecoder::new(&mut source))?;
        loop {
            let rest = source.fill_buf().map_err(staging_failed)?;
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            match (rest.is_empty(), zeros) {
                (true, _) => return Ok(()),
                (false, 0) => break,
                (false, zeros) => source.consume(zeros),
            }
        }
    }
}

/// Extracts the only file of a ZIP archive.
fn unzip(mut source: File, output: &mut Output<'_>) -> Result<()> {
    let entry = zip::only_entry(&mut source).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => corrupt(&error.to_string()),
        _ => staging_failed(error),
    })?;
    let data = BufReader::with_capacity(BUFFER, source).take(entry.compressed);
    let crc = match entry.method {
        zip::Method::Stored => output.write(data)?,
        zip::Method::Deflated => output.write(DeflateDecoder::new(data))?,
    };
    if output.written != entry.size || crc.sum() != entry.crc {
        return Err(corrupt("the archive's checksum is wrong"));
    }
    Ok(())
}

/// Extracts the only file of an LHA archive.
fn extract_lha(mut source: BufReader<File>, output: &mut Output<'_>) -> Result<()> {
    let header = read_lha_header(&mut source)?.ok_or_else(|| corrupt("its file is missing"))?;
    let data = source.stream_position().map_err(staging_failed)?;
    let end = data.checked_add(header.compressed_size).filter(|end| i64::try_from(*end).is_ok());
    source.seek(SeekFrom::Start(end.ok_or_else(|| corrupt("its file is missing"))?)).map_err(staging_failed)?;
    if read_lha_header(&mut source)?.is_some() {
        return Err(corrupt("Archive contains more than one file."));
    }
    if header.is_directory() {
        return Err(corrupt("it contains a directory"));
    }
    source.seek(SeekFrom::Start(data)).map_err(staging_failed)?;
    let decoder = DecoderAny::new_from_header(&header, source);
    if !decoder.is_supported() {
        return Err(corrupt("its compression method is not supported"));
    }
    let mut reader = LhaDecodeReader::default();
    reader.begin_with_header_and_decoder(header, decoder);
    output.write(&mut reader)?;
    if reader.crc_is_ok() { Ok(()) } else { Err(corrupt("the archive's checksum is wrong")) }
}

/// Reads the header of a file; `None` at the end of the archive.
fn read_lha_header(source: &mut BufReader<File>) -> Result<Option<LhaHeader>> {
    LhaHeader::read(&mut source.take(MAX_LHA_HEADER)).map_err(|error| match error {
        LhaError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => staging_failed(error),
        error => corrupt(&error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::{Archive, recognise};

    #[test]
    fn archives_are_recognised_by_their_first_bytes() {
        for (head, expected) in [
            (&b"PK\x03\x04\x14"[..], Some(Archive::Zip)),
            (b"\x1F\x8B\x08\0\0", Some(Archive::Gzip)),
            (b"!!-lh", Some(Archive::Lha)),
            (b"\x1F\x8B", None),
            (b"", None),
            (b"QFI\xFB\0", None),
        ] {
            assert_eq!(recognise(head), expected, "{head:?}");
        }
    }
}
