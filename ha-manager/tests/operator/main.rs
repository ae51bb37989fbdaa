//! What an operator meets: the shipped `directord` and `ipvsadm`, in namespaces of the test's own
//! thread. Each mistake is answered by one line, with the documented exit status, and changes
//! nothing.

mod configuration;
mod excluded;
mod exposition;
mod full;
mod handover;
mod host;
mod lan;
mod life;
mod listings;
mod logging;
mod metrics;
mod mistakes;
mod network;
mod node;
mod notices;
mod pair;
mod permissions;
mod router;
mod services;
mod shared_roles;
mod split;
mod start;
mod sysctl;
mod sysctl_effects;
mod transcripts;
mod translator;
mod wire;
