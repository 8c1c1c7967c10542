//! (to be built)
/// x
#[derive(Clone, Debug)]
pub enum Listen {
    /// x
    Tcp(std::net::SocketAddr),
    /// x
    Unix(std::path::PathBuf),
}
