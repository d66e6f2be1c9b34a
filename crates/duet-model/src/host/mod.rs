//! What a training step spends its time on, written by hand for devices whose memory is the host's.
//!
//! * [`product`]: the matrix product all of it is made of, in safe code that the compiler turns into the registers of the
//!   processor it runs on.
//! * [`loss`]: sampled softmax with its gradients.
//! * [`pool`]: the `mean` encoder; [`attention`] and [`transformer`]: those encoders.
//! * [`users`]: what their heads start from. [`head`]: from the sum of an entity's parts to its vector, and back.
//!
//! Everything gives the same bits for any number of threads: work is cut by the shape of the data, never by the number of
//! threads, and sums are taken in the order of the pieces. The same computations as tensor operations ([`crate::loss`],
//! [`crate::tower`]) are what these are tested against, and what other devices run.

#![expect(clippy::needless_range_loop, reason = "lanes of several arrays side by side read better by number")]
#![expect(clippy::too_many_arguments, reason = "a function for each instruction set takes everything by hand")]

pub(crate) mod attention;
pub(crate) mod head;
pub(crate) mod loss;
pub(crate) mod pool;
pub(crate) mod product;
pub(crate) mod transformer;
pub(crate) mod users;
