#ifndef SHOAL_BASE_S3_STORAGE_H_
#define SHOAL_BASE_S3_STORAGE_H_

#include <memory>

#include "base/s3/client.h"
#include "base/storage.h"

namespace shoal {

// Files of an S3-compatible store, by paths s3://BUCKET/PATH. A file is an
// object; a folder is there while a file is in it.
//
// A file that is not larger than a part is published by one PUT, a larger one
// as a multipart upload, which is aborted after an error; both replace the file
// as a whole. A process that is killed in the middle leaves an unfinished
// upload: a lifecycle rule of the bucket should end those. Remove() takes files
// one after another in the order of their names. It is Cancellable.
std::unique_ptr<Storage> CreateS3Storage(const S3Options& options);

}  // namespace shoal

#endif  // SHOAL_BASE_S3_STORAGE_H_
