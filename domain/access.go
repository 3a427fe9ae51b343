package domain

// Permission is what one RPC needs; each names its own in a proto option.
type Permission string

// The permissions of the API so far, one for each RPC or group of RPCs that nobody would grant apart.
const (
	PermissionRingsCreate            Permission = "kms.keyRings.create"
	PermissionRingsGet               Permission = "kms.keyRings.get"
	PermissionRingsList              Permission = "kms.keyRings.list"
	PermissionRingsArchive           Permission = "kms.keyRings.archive"
	PermissionRingsUnarchive         Permission = "kms.keyRings.unarchive"
	PermissionKeysCreate             Permission = "kms.keys.create"
	PermissionKeysGet                Permission = "kms.keys.get"
	PermissionKeysList               Permission = "kms.keys.list"
	PermissionKeysAddAlias           Permission = "kms.keys.addAlias"
	PermissionKeysRemoveAlias        Permission = "kms.keys.removeAlias"
	PermissionKeysUpdate             Permission = "kms.keys.update"
	PermissionKeysRotate             Permission = "kms.keys.rotate"
	PermissionKeysEnable             Permission = "kms.keys.enable"
	PermissionKeysDisable            Permission = "kms.keys.disable"
	PermissionVersionsGet            Permission = "kms.keyVersions.get"
	PermissionVersionsList           Permission = "kms.keyVersions.list"
	PermissionVersionsEnable         Permission = "kms.keyVersions.enable"
	PermissionVersionsDisable        Permission = "kms.keyVersions.disable"
	PermissionKeysScheduleDelete     Permission = "kms.keys.scheduleDeletion"
	PermissionKeysCancelDelete       Permission = "kms.keys.cancelDeletion"
	PermissionKeysDelete             Permission = "kms.keys.delete"
	PermissionKeysArchive            Permission = "kms.keys.archive"
	PermissionKeysUnarchive          Permission = "kms.keys.unarchive"
	PermissionKeysRotation           Permission = "kms.keys.updateRotation" // period, and whether there is one
	PermissionKeysSetPrimary         Permission = "kms.keys.setPrimaryVersion"
	PermissionVersionsCreate         Permission = "kms.keyVersions.create"
	PermissionVersionsDestroy        Permission = "kms.keyVersions.scheduleDestruction"
	PermissionVersionsRestore        Permission = "kms.keyVersions.restore"
	PermissionBindingsAdd            Permission = "kms.usageBindings.add"
	PermissionBindingsRemove         Permission = "kms.usageBindings.remove"
	PermissionBindingsList           Permission = "kms.usageBindings.list"
	PermissionImportJobsCreate       Permission = "kms.importJobs.create"
	PermissionImportJobsGet          Permission = "kms.importJobs.get"
	PermissionImportJobsList         Permission = "kms.importJobs.list"
	PermissionImportJobsCancel       Permission = "kms.importJobs.cancel"
	PermissionVersionsImport         Permission = "kms.keyVersions.import"
	PermissionVersionsImportClear    Permission = "kms.keyVersions.importClear"
	PermissionVersionsDeleteMaterial Permission = "kms.keyVersions.deleteMaterial"
	PermissionVersionsGetPublicKey   Permission = "kms.keyVersions.getPublicKey"
	PermissionKeysGetHistory         Permission = "kms.keys.getHistory"
	PermissionKeysWatch              Permission = "kms.keys.watch"
	PermissionEncrypt                Permission = "kms.keys.encrypt"
	PermissionDecrypt                Permission = "kms.keys.decrypt"
	PermissionReEncrypt              Permission = "kms.keys.reEncrypt"
	PermissionGenerateDataKey        Permission = "kms.keys.generateDataKey"
	PermissionGenerateRandom         Permission = "kms.locations.generateRandomBytes"
	PermissionActivityList           Permission = "kms.activityLogs.list"
	PermissionLatestUseGet           Permission = "kms.activityLogs.getLatestUse"
	PermissionServerGet              Permission = "kms.server.get"
	PermissionSiteShred              Permission = "kms.site.shred"
	PermissionOrphansList            Permission = "kms.orphans.list"
)

// Allowed says whether the caller has the permission, and what grants it. So far there is one access key, the
// instance admin's, which may do everything, and the service itself.
func Allowed(c Caller, _ Permission) (grantedBy string, ok bool) {
	switch c.Kind {
	case KindAdmin:
		return "admin", true
	case KindSystem:
		return "system", true
	}
	return "", false
}
