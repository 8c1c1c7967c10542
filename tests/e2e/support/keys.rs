//! Keys of every kind that may sign in, and the signatures they make.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ed25519_dalek::Signer as _;
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey, SshSig, private::Ed25519Keypair};

/// A key that can sign in.
pub struct Key {
    /// `ssh-ed25519 AAAA... comment`.
    pub public: String,
    secret: Secret,
}

enum Secret {
    /// In this process.
    Ed25519(Box<PrivateKey>),
    /// A file that `ssh-keygen -Y sign` reads.
    File(PathBuf),
    /// A security key in software: what a FIDO token would do.
    Token { key: Box<ed25519_dalek::SigningKey>, flags: u8 },
}

/// The application a security key is bound to.
const APPLICATION: &str = "ssh:";

impl Key {
    /// A new Ed25519 key in memory.
    pub fn new(comment: &str) -> Self {
        let pair = Ed25519Keypair::from_seed(&seed());
        let private = PrivateKey::new(pair.into(), comment).expect("an Ed25519 key");
        let public = private.public_key().to_openssh().expect("an OpenSSH line");
        Self { public, secret: Secret::Ed25519(Box::new(private)) }
    }

    /// The Ed25519 key in an OpenSSH file, for instance the one `up` made for itself.
    pub fn from_file(path: &Path) -> Self {
        let private = PrivateKey::read_openssh_file(path).expect("an OpenSSH private key");
        let public = private.public_key().to_openssh().expect("an OpenSSH line");
        Self { public, secret: Secret::Ed25519(Box::new(private)) }
    }

    /// A key made by `ssh-keygen -t KIND -b BITS`; it signs through `ssh-keygen -Y sign`.
    pub fn ssh_keygen(folder: &Path, kind: &str, bits: u32) -> Self {
        let file = folder.join(format!("id_{kind}_{bits}"));
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", &bits.to_string(), "-N", "", "-C", &format!("{kind}-{bits}"), "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .status()
            .expect("ssh-keygen runs (package openssh-client)");
        assert!(status.success(), "ssh-keygen made no {kind} key");
        let public = fs::read_to_string(file.with_extension("pub")).expect("the public half").trim().to_owned();
        Self { public, secret: Secret::File(file) }
    }

    /// An `sk-ssh-ed25519` key as a FIDO token holds it. `present` says whether somebody touches the token.
    pub fn security_key(comment: &str, present: bool) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed());
        let mut blob = Vec::new();
        put(&mut blob, b"sk-ssh-ed25519@openssh.com");
        put(&mut blob, key.verifying_key().as_bytes());
        put(&mut blob, APPLICATION.as_bytes());
        let public = PublicKey::from_bytes(&blob).expect("a security key's blob").to_openssh().expect("a line");
        let public = format!("{public} {comment}").trim().to_owned();
        Self { public, secret: Secret::Token { key: Box::new(key), flags: u8::from(present) } }
    }

    /// `SHA256:...`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        PublicKey::from_openssh(&self.public).expect("an OpenSSH line").fingerprint(HashAlg::Sha256).to_string()
    }

    /// The line of a keys file, with options in front.
    pub fn line(&self, options: &str) -> String {
        format!("{options} {}\n", self.public).trim_start().to_owned()
    }

    /// Writes the private half where `--key` or an SSH client finds it. For keys held in memory only.
    pub fn write(&self, path: &Path) {
        let Secret::Ed25519(private) = &self.secret else { panic!("only keys in memory are written") };
        private.write_openssh_file(path, LineEnding::LF).expect("the private half is written");
        fs::write(path.with_extension("pub"), format!("{}\n", self.public)).expect("the public half is written");
    }

    /// Writes the private half encrypted, so that no passphrase but this opens it.
    pub fn write_encrypted(&self, path: &Path, passphrase: &str) {
        let Secret::Ed25519(private) = &self.secret else { panic!("only keys in memory are written") };
        let rng = &mut ssh_key::rand_core::OsRng;
        let private = private.encrypt(rng, passphrase).expect("an encrypted key");
        private.write_openssh_file(path, LineEnding::LF).expect("the private half is written");
    }

    /// An armored SSHSIG over `message`.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> String {
        match &self.secret {
            Secret::Ed25519(private) => private
                .sign(namespace, HashAlg::Sha512, message)
                .and_then(|signature| signature.to_pem(LineEnding::LF))
                .expect("an Ed25519 key signs"),
            Secret::File(file) => sign_by_ssh_keygen(file, namespace, message),
            Secret::Token { key, flags } => self.sign_as_token(key, *flags, namespace, message),
        }
    }

    /// PROTOCOL.u2f: a token signs SHA256(application), flags, counter, SHA256(what OpenSSH wants signed).
    fn sign_as_token(&self, key: &ed25519_dalek::SigningKey, flags: u8, namespace: &str, message: &[u8]) -> String {
        let inner = SshSig::signed_data(namespace, HashAlg::Sha512, message).expect("data to sign");
        let counter = 7_u32.to_be_bytes();
        let mut data = HashAlg::Sha256.digest(APPLICATION.as_bytes());
        data.push(flags);
        data.extend(counter);
        data.extend(HashAlg::Sha256.digest(&inner));
        let mut signature = Vec::new();
        put(&mut signature, b"sk-ssh-ed25519@openssh.com");
        put(&mut signature, &key.sign(&data).to_bytes());
        signature.push(flags);
        signature.extend(counter);
        let mut blob = b"SSHSIG".to_vec();
        blob.extend(1_u32.to_be_bytes());
        let public = PublicKey::from_openssh(&self.public).expect("a line").to_bytes().expect("a blob");
        put(&mut blob, &public);
        put(&mut blob, namespace.as_bytes());
        put(&mut blob, b"");
        put(&mut blob, b"sha512");
        put(&mut blob, &signature);
        armor(&blob)
    }
}

/// A signature that verifies for `namespace` over `message` with the relay's key.
pub fn verify(public: &str, namespace: &str, message: &[u8], armored: &str) -> Result<(), String> {
    let key = PublicKey::from_openssh(public).map_err(|error| format!("host key: {error}"))?;
    let signature: SshSig = armored.parse().map_err(|error| format!("proof: {error}"))?;
    key.verify(namespace, message, &signature).map_err(|error| format!("proof: {error}"))
}

/// 32 random bytes.
pub fn seed() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system's random numbers");
    bytes
}

fn sign_by_ssh_keygen(file: &Path, namespace: &str, message: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh-keygen runs (package openssh-client)");
    child.stdin.take().expect("its stdin").write_all(message).expect("it reads the message");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "ssh-keygen -Y sign: {:?}", output.status);
    String::from_utf8(output.stdout).expect("an armored signature is text")
}

fn put(blob: &mut Vec<u8>, bytes: &[u8]) {
    blob.extend(u32::try_from(bytes.len()).expect("short").to_be_bytes());
    blob.extend(bytes);
}

fn armor(blob: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(blob);
    let mut armored = String::from("-----BEGIN SSH SIGNATURE-----\n");
    for line in text.as_bytes().chunks(70) {
        armored.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        armored.push('\n');
    }
    armored.push_str("-----END SSH SIGNATURE-----\n");
    armored
}
