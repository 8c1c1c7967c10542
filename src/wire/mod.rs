//! (to be built)
pub mod http {
    #[derive(Debug)]
    pub struct Response {
        pub status: u16,
        pub headers: Vec<(&'static str, String)>,
        pub body: Vec<u8>,
    }
}
