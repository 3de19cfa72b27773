"""Who wrote the files that instruct an agent: SKILL.md, CLAUDE.md and their like are code for it.

A policy says which files (globs), signed by whom (publishers), and what follows where one is not (deny, warn, audit).
Each file has a bundle beside it, FILE.bundle, or all have one, .nono-trust.bundle; both are Sigstore bundles that hold
an in-toto statement: names and digests. The formats are those of the Rust tool of the same name; SECURITY.md says where
this one is stricter.

    errors    what can be wrong with a file or its bundle: the outcomes, and the exceptions that carry one
    strict    JSON as a signature needs it: one meaning, bounded
    policy    trust-policy.json -> Policy; policies -> Rules; whether a signer is a publisher
    globs     which paths the includes match; linear time
    find      the files of a tree that they match
    files     one file, opened once: that inode is hashed, and looked at again before the child starts
    bundle    FILE.bundle -> Bundle, with its statement; and back
    keys      P-256, over the package `cryptography`
    keyless   a bundle by a certificate of Fulcio -> who signed it, over the package `sigstore`
              (certificate: the identity in it; trusted_root: whom that believes; verified_cache: what it said before)
    signing   files -> statement -> bundle
              (keyless_signing: without a key, in CI)
    own       the public keys of this user
    anchors   which policies count, and by whose signature
    check     one file and its bundle against the rules -> Verdict

What is trusted starts at the user's own public keys (own.py); everything else is signed by them, directly or through
his policy. A project never widens that.
"""
