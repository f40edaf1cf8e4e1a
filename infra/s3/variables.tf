# What differs between sites. Secrets are none of it: OpenTofu takes its own from the environment.
# Tested: parsed (python-hcl2), formatted (`tofu fmt`). Not tested: never planned or applied, for want of a provider.
variable "cohort_bucket" {
  description = "The bucket that holds the images and the model's weights; it is there already, and is only read"
  type        = string
}

variable "results_bucket" {
  description = "The bucket that is made for the outputs"
  type        = string
}

variable "oidc_provider_arn" {
  description = "ARN of the Kubernetes cluster's OpenID Connect provider, arn:aws:iam::ACCOUNT:oidc-provider/HOST/PATH"
  type        = string
}
