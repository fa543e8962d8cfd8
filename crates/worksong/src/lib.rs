//! worksong
