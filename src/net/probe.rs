//! Whether this machine can run a ring, and what to do if not. `hubbub doctor` prints it, and so does a start
//! that fails.

use super::event::{RingConfig, RingError};
use super::ring::Ring;

/// Something that keeps the server from running here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: String,
    /// What the operator can do.
    pub remedy: String,
}

/// Sets up a ring like a shard's and takes it down again.
pub fn probe() -> Result<(), Finding> {
    match Ring::new(&RingConfig::default()) {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(&error)),
    }
}

/// Turns a refused ring into something an operator can act on.
#[must_use]
pub fn explain(error: &RingError) -> Finding {
    let errno = match error {
        RingError::Setup(error) | RingError::Buffers(error) | RingError::Register(error) => error.raw_os_error(),
    };
    Finding { problem: error.to_string(), remedy: remedy(error, errno).to_owned() }
}

fn remedy(error: &RingError, errno: Option<i32>) -> &'static str {
    match (error, errno) {
        (RingError::Setup(_), Some(libc::ENOSYS)) => {
            "this kernel has no io_uring: use Linux 6.1 or newer, built with CONFIG_IO_URING"
        }
        (RingError::Setup(_), Some(libc::EPERM)) => {
            "io_uring is forbidden here: set kernel.io_uring_disabled=0 with sysctl, or allow \
             io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
        }
        (RingError::Setup(_), Some(libc::EINVAL)) => {
            "this kernel's io_uring is too old (DEFER_TASKRUN is missing): use Linux 6.1 or newer"
        }
        (_, Some(libc::ENOMEM)) => {
            "too little memory may be locked: raise it with `ulimit -l unlimited`, LimitMEMLOCK=infinity in the \
             systemd unit, or start fewer shards with --shards"
        }
        (_, Some(libc::EMFILE | libc::ENFILE)) => "no descriptors are left: raise `ulimit -n`",
        (RingError::Buffers(_), _) => "this kernel has no rings of provided buffers: use Linux 6.1 or newer",
        _ => "run `hubbub doctor` for what this machine offers",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_refusal_names_its_remedy() {
        let setup = |errno| explain(&RingError::Setup(io::Error::from_raw_os_error(errno))).remedy;
        assert!(setup(libc::EPERM).contains("io_uring_disabled"));
        assert!(setup(libc::ENOSYS).contains("6.1"));
        assert!(setup(libc::EINVAL).contains("6.1"));
        assert!(setup(libc::ENOMEM).contains("ulimit -l"));
    }
}
