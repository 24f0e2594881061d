//! The traits of io from one seed: a disk that loses and tears, a network that stalls and cuts, threads interleaved on one.
