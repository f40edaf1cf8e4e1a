# Who runs are to S3: the role of the service account in infra/kubernetes. It reads the cohort, and reads, writes and
# deletes outputs; tests/infra/test_policy.py runs everything under this policy, and without any one of its actions.
# Tested: parsed (python-hcl2), formatted (`tofu fmt`), scanned (`make infra-check`), and the policy enforced by SeaweedFS.
# Not tested: never planned or applied, and the policy never enforced by Amazon.
data "aws_iam_policy_document" "runs" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = ["arn:aws:s3:::${var.cohort_bucket}", aws_s3_bucket.results.arn]
  }
  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = ["arn:aws:s3:::${var.cohort_bucket}/*", "${aws_s3_bucket.results.arn}/*"]
  }
  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.results.arn}/*"]
  }
}

data "aws_iam_policy_document" "service_account" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:sub"
      values   = ["system:serviceaccount:cohortlens:cohortlens"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

locals {
  oidc_issuer = regex("oidc-provider/(.*)", var.oidc_provider_arn)[0]
}

resource "aws_iam_role" "runs" {
  name               = "cohortlens"
  assume_role_policy = data.aws_iam_policy_document.service_account.json
}

resource "aws_iam_role_policy" "runs" {
  name   = "cohort-and-outputs"
  role   = aws_iam_role.runs.id
  policy = data.aws_iam_policy_document.runs.json
}

output "role_arn" {
  description = "For the service account's annotation in infra/kubernetes/service-account.yaml"
  value       = aws_iam_role.runs.arn
}
