//! Small files as others have left them: a pipe does not make the reader wait, and nothing is read without end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// Where the system shows what a process has open: `/dev/fd/63` is how a shell passes `<(COMMAND)`.
const DESCRIPTORS: [&str; 3] = ["/dev/fd", "/dev/stdin", "/proc/self/fd"];

/// Whether a path names what one process has open, and something else to any other.
pub fn is_descriptor(path: &Path) -> bool {
    DESCRIPTORS.iter().any(|descriptors| path.starts_with(descriptors))
}

/// The file of a path, which must be no pipe: one without a writer would be waited for. A pipe that this process was given
/// has one.
///
/// # Errors
/// It is a pipe, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    if is_descriptor(path) {
        return File::open(path);
    }
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe, and a file is wanted"));
    }
    Ok(file)
}

/// The bytes of a file that [`open`] opens.
///
/// # Errors
/// It is a pipe, has more bytes than that, or cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_small_file_is_refused_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        for name in ["pipe", "link"] {
            assert!(read(&at(name), 9).unwrap_err().to_string().contains("a pipe"));
        }
        assert_eq!(read(Path::new("/dev/zero"), 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/dev/null"), 9).unwrap(), b"");
        // A pipe that this process was given has a writer.
        let (given, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"a key").unwrap();
        drop(writer);
        assert_eq!(read(&Path::new(DESCRIPTORS[0]).join(given.as_raw_fd().to_string()), 9).unwrap(), b"a key");
        assert!(read(scratch.path(), 9).is_err());
        std::fs::write(at("file"), "123456789").unwrap();
        assert_eq!(read(&at("file"), 9).unwrap(), b"123456789");
        assert!(read(&at("file"), 8).unwrap_err().to_string().contains("larger than 8 bytes"));
    }
}
