//! What an operator meets: the shipped `directord` and `ipvsadm`, in namespaces of the test's own
//! thread. Each mistake is answered by one line, with the documented exit status, and changes
//! nothing.

mod configuration;
mod host;
mod life;
mod logging;
mod pair;
mod permissions;
mod services;
mod start;
